"""From what `kv_prefix` computed of an initialisation to the prefix that a variant starts from.

An initialisation is a class of `pipeline.config.initializations`, the tokens that
`pipeline.initialization.corpus` takes for it, whose KV cache the stage `kv_prefix` computes once
for all lengths, and what a variant makes of that when it trains, in the table below (by default,
its first p entries).
"""

from collections.abc import Callable
from typing import Any

import torch

from pipeline.config import Params
from pipeline.config.initializations import (
    Initialization,
    MostAttended,
    PrefixFile,
    Random,
    TrainedVariant,
    Vocabulary,
    Zero,
)
from pipeline.data.splits import load_split
from pipeline.models.tokenizer import load_tokenizer
from pipeline.prefix import KVPrefix, PrefixConfig, PrefixModel, random_kv_prefix
from pipeline.prefix.starts.attended import most_attended
from pipeline.prefix.starts.initializers import (
    kv_prefix_from_words,
    stretched_kv_prefix,
    zero_kv_prefix,
)
from pipeline.sweep.variants import Variant
from pipeline.workspace import paths


def start_prefix(params: Params, variant: Variant, model: PrefixModel) -> KVPrefix:
    """The prefix that a variant's training starts from, of the variant's length, for all layers.

    Raises PipelineError or PrefixError when what it is made from is missing or does not fit.
    """
    definition = params.initializations[variant.initialization]
    start = _STARTS.get(type(definition), _first_of_cache)
    return start(definition, params, variant, model)


def _first_of_cache(
    _: Initialization, params: Params, variant: Variant, model: PrefixModel
) -> KVPrefix:
    return _cached(variant)[: variant.length]


def _random(definition: Random, _: Params, variant: Variant, model: PrefixModel) -> KVPrefix:
    return random_kv_prefix(model.kv_shapes, variant.length, definition.scale, _generator(variant))


def _zero(_: Zero, __: Params, variant: Variant, model: PrefixModel) -> KVPrefix:
    return zero_kv_prefix(model.kv_shapes, variant.length)


def _vocabulary(
    definition: Vocabulary, _: Params, variant: Variant, model: PrefixModel
) -> KVPrefix:
    tokenizer = load_tokenizer(paths.MODEL)
    words = definition.words
    generator = _generator(variant)
    return kv_prefix_from_words(model.frozen_model, tokenizer, words, variant.length, generator)


def _most_attended(
    definition: MostAttended, params: Params, variant: Variant, model: PrefixModel
) -> KVPrefix:
    corpus = _cached(variant)
    rows = load_split(paths.TOKENIZED / "splits", "train").select_columns(
        ["input_ids", "target_start"]
    )
    inputs = [
        row["input_ids"][: row["target_start"]]
        for row in rows.select(range(min(definition.inputs, len(rows))))
    ]
    whole = PrefixModel(model.frozen_model, PrefixConfig(num_virtual_tokens=len(corpus))).eval()
    whole.load_kv_prefix(corpus)
    kv = most_attended(whole, corpus, variant.length, inputs)
    whole.detach()
    return kv


def _stretched(
    _: PrefixFile | TrainedVariant, __: Params, variant: Variant, model: PrefixModel
) -> KVPrefix:
    return stretched_kv_prefix(_cached(variant), variant.length)


_STARTS: dict[type, Callable[[Any, Params, Variant, Any], KVPrefix]] = {
    Random: _random,
    Zero: _zero,
    Vocabulary: _vocabulary,
    MostAttended: _most_attended,
    PrefixFile: _stretched,
    TrainedVariant: _stretched,
}


def _cached(variant: Variant) -> KVPrefix:
    return KVPrefix.load(paths.KV_PREFIX / variant.initialization / "prefix.safetensors")


def _generator(variant: Variant) -> torch.Generator:
    return torch.Generator().manual_seed(variant.seed)
