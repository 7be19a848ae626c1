"""Loss of the target and greedy generation from one prefill of each input.

Both begin with the same forward pass over the input, by far the larger part of either; it fills a
cache once, from which the target is scored, and from which generation then starts.
"""

import time

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from pipeline.config.evaluate import EvaluateParams
from pipeline.data.batching import Example
from pipeline.data.measuring import in_order, over_batches
from pipeline.evaluation.outcome import Outcome
from pipeline.evaluation.packed_batch import PackedBatch
from pipeline.evaluation.padded_batch import PaddedBatch
from pipeline.evaluation.source_target import measure_source_targets
from pipeline.models.tokenizer import end_tokens, without_end
from pipeline.prefix import PrefixModel


def measure_examples(
    model: PrefixModel,
    tokenizer: PreTrainedTokenizerBase,
    split: Dataset,
    params: EvaluateParams,
    name: str,
    end: int | None = None,
    until: str | None = None,
) -> list[Outcome]:
    """Score and continue every example, in the split's order.

    Generation is greedy (the most likely token at every step), up to `params.max_new_tokens` or
    the model's end of a turn, which `end`, the end of a target, is too. A text ends before `until`
    where it has that. Batches hold examples of like length, within
    `params.max_tokens_per_batch` tokens of cache.
    """
    if model.config.is_encoder_decoder:
        return measure_source_targets(model, tokenizer, split, params, name)
    rows = split.select_columns(["input_ids", "target_start"]).to_list()
    packed = model.why_not_packed(decoding=True) is None
    # What a row keeps in the cache: packed rows share one prefix.
    shared = 0 if packed else model.prefix_length
    room = [
        shared + row["target_start"]
        + max(params.max_new_tokens, len(row["input_ids"]) - row["target_start"])
        for row in rows
    ]  # fmt: skip
    kind = PackedBatch if packed else PaddedBatch
    ends = end_tokens(model.frozen_model, tokenizer) | (set() if end is None else {end})

    def measure(examples: list[Example]) -> list[Outcome]:
        batch = kind(model, examples, params.max_new_tokens)
        losses = batch.target_losses()
        began = time.perf_counter()
        generated = batch.continuations(params.max_new_tokens, ends)
        seconds = (time.perf_counter() - began) / len(examples)
        written = [without_end(ids, ends) for ids in generated]
        texts = tokenizer.batch_decode(written, skip_special_tokens=True)
        if until is not None:
            texts = [text.lstrip().partition(until)[0] for text in texts]
        return [
            Outcome(loss, text.strip(), len(ids), seconds)
            for loss, text, ids in zip(losses, texts, generated, strict=True)
        ]

    most, title = params.max_tokens_per_batch, f"evaluate {name}"
    return in_order(over_batches(measure, rows, room, most, title, packed))
