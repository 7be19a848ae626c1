"""The words that the virtual tokens of every start of the sweep came from."""

from collections.abc import Iterator

import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.config import Params
from pipeline.inspection.words import words_of
from pipeline.models.definition import read_definition
from pipeline.models.for_variant import trained_start
from pipeline.models.trainable import start_config
from pipeline.prefix import PrefixModel
from pipeline.sweep.variants import Variant
from pipeline.workspace import paths

COLUMNS = ("initialization", "length", "seed", "origin", "token", "id", "word")


def words_of_start(
    params: Params, variant: Variant, frozen_model: PreTrainedModel
) -> tuple[str, list[int] | None]:
    """What a variant's virtual tokens came from, in words, and the id of each where it has one.

    Raises PipelineError or PrefixError when what the start is made from is missing.
    """
    definition = read_definition(paths.KV_PREFIX / variant.initialization)
    model = PrefixModel(frozen_model, start_config(params.prefix, variant.length))
    try:
        return definition.origin(), definition.tokens(trained_start(variant, model))
    finally:
        model.detach()


def origins(
    params: Params, frozen_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> pd.DataFrame:
    """A row for each virtual token of every start (initialisation, length, and seed if it has one).

    Columns: `COLUMNS`. A start of no text (noise, zeros, an earlier prefix) has one row, without
    token, id and word.
    """
    rows: list[dict[str, object]] = []
    for variant, seed in _starts(params):
        origin, ids = words_of_start(params, variant, frozen_model)
        start = {
            "initialization": variant.initialization,
            "length": variant.length,
            "seed": seed,
            "origin": origin,
        }
        words = [] if ids is None else words_of(tokenizer, ids)
        rows += [
            {**start, "token": token, "id": number, "word": word}
            for token, (number, word) in enumerate(zip(ids or (), words, strict=True))
        ] or [{**start, "token": None, "id": None, "word": None}]
    whole = dict.fromkeys(("seed", "token", "id"), "Int64")
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(whole)


def _starts(params: Params) -> Iterator[tuple[Variant, int | None]]:
    """A variant of each start, and the seed where every seed has another start."""
    sweep = params.sweep
    for name in sorted(sweep.initializations):
        drawn = read_definition(paths.KV_PREFIX / name).is_drawn
        for length in sorted(sweep.lengths):
            for seed in sorted(sweep.seeds) if drawn else sorted(sweep.seeds)[:1]:
                yield Variant(length, name, seed), seed if drawn else None
