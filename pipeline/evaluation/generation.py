"""Loss of the target and greedy generation from one prefill of each input.

Both begin with the same forward pass over the input, by far the larger part of either; it fills a
cache once, from which the target is scored, and from which generation then starts.
"""

import time
from functools import partial

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from pipeline.config.evaluate import EvaluateParams
from pipeline.data.batching import Example, by_length
from pipeline.data.measuring import in_order, over_batches
from pipeline.data.rows import TokenizedRows, rows_of
from pipeline.evaluation.batches import Apart, Group, groups
from pipeline.evaluation.outcome import Outcome
from pipeline.evaluation.packed_batch import PackedBatch
from pipeline.evaluation.padded_batch import PaddedBatch
from pipeline.evaluation.source_target import measure_source_targets
from pipeline.evaluation.taught import distances
from pipeline.loss.for_model import loss_columns
from pipeline.models.tokenizer import end_tokens, without_end
from pipeline.prefix import PrefixModel

Kind = type[PackedBatch] | type[PaddedBatch]


def measure_examples(
    model: PrefixModel,
    tokenizer: PreTrainedTokenizerBase,
    split: Dataset | TokenizedRows,
    params: EvaluateParams,
    name: str,
    max_tokens: int,
    end: int | None = None,
    until: str | None = None,
) -> list[Outcome]:
    """Score and continue every example, in the split's order.

    Generation is greedy (the most likely token at every step), up to `params.max_new_tokens` or
    the model's end of a turn, which `end`, the end of a target, is too. A text ends before `until`
    where it has that. Batches hold examples of like length, within `max_tokens` tokens of cache
    (see `pipeline.evaluation.batches`).
    """
    if model.config.is_encoder_decoder:
        return measure_source_targets(model, tokenizer, split, params, name, max_tokens)
    rows = rows_of(split, loss_columns(split))
    ends = end_tokens(model.frozen_model, tokenizer) | (set() if end is None else {end})

    def measure(kind: Kind, examples: list[Example]) -> list[Outcome]:
        batch = kind(model, examples, params.max_new_tokens)
        losses = batch.target_losses()
        far = distances(batch.target_logits, examples)
        began = time.perf_counter()
        generated = batch.continuations(params.max_new_tokens, ends)
        seconds = (time.perf_counter() - began) / len(examples)
        written = [without_end(ids, ends) for ids in generated]
        texts = tokenizer.batch_decode(written, skip_special_tokens=True)
        if until is not None:
            texts = [text.lstrip().partition(until)[0] for text in texts]
        return [
            Outcome(loss, text.strip(), len(ids), seconds, distance)
            for loss, text, ids, distance in zip(losses, texts, generated, far, strict=True)
        ]

    outcomes: dict[int, Outcome] = {}
    for group in _groups(model, rows, params, max_tokens):
        kind: Kind = PackedBatch if group.is_packed else PaddedBatch
        batches = over_batches(
            partial(measure, kind),
            rows.select(group.chosen),
            group.tokens,
            group.most,
            f"evaluate {name}",
            group.is_packed,
        )
        outcomes.update(zip(group.chosen, in_order(batches), strict=True))
    return [outcomes[i] for i in range(len(rows))]


def one_batch(
    model: PrefixModel, split: Dataset | TokenizedRows, params: EvaluateParams, max_tokens: int
) -> list[int]:
    """The places of the examples of one of the batches in which `measure_examples` measures.

    It is the middle one by the length of its examples.
    """
    rows = rows_of(split, ["input_ids", "target_start"])
    batches = [
        [group.chosen[place] for place in batch]
        for group in _groups(model, rows, params, max_tokens)
        for batch in by_length(group.tokens, group.most, group.is_packed)
    ]
    batches.sort(key=lambda batch: int(rows.tokens[batch].max()))
    return sorted(batches[len(batches) // 2])


def add_batches(
    apart: Apart,
    model: PrefixModel,
    split: Dataset | TokenizedRows,
    params: EvaluateParams,
    max_tokens: int,
) -> None:
    """Count the batches in which `measure_examples` measures a split of a decoder."""
    rows = rows_of(split, ["input_ids", "target_start"])
    apart.add(_groups(model, rows, params, max_tokens))


def _groups(
    model: PrefixModel, rows: TokenizedRows, params: EvaluateParams, max_tokens: int
) -> list[Group]:
    starts = rows.target_starts
    room = starts + np.maximum(params.max_new_tokens, rows.tokens - starts)
    return groups(model, starts, room, max_tokens)
