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
from pipeline.models.tokenizer import end_tokens
from pipeline.prefix import PrefixModel


def measure_examples(
    model: PrefixModel,
    tokenizer: PreTrainedTokenizerBase,
    split: Dataset,
    params: EvaluateParams,
    name: str,
    max_tokens: int,
) -> list[Outcome]:
    """Score and continue every example, in the split's order.

    Generation is greedy (the most likely token at every step), up to `params.max_new_tokens` or
    the model's end of a turn. Batches hold examples of like length, within
    `max_tokens` tokens of cache.
    """
    if model.config.is_encoder_decoder:
        return measure_source_targets(model, tokenizer, split, params, name, max_tokens)
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
    ends = end_tokens(model.frozen_model, tokenizer)

    def measure(examples: list[Example]) -> list[Outcome]:
        batch = kind(model, examples, params.max_new_tokens)
        losses = batch.target_losses()
        began = time.perf_counter()
        generated = batch.continuations(params.max_new_tokens, ends)
        seconds = (time.perf_counter() - began) / len(examples)
        texts = tokenizer.batch_decode(generated, skip_special_tokens=True)
        return [
            Outcome(loss, text.strip(), len(ids), seconds)
            for loss, text, ids in zip(losses, texts, generated, strict=True)
        ]

    title = f"evaluate {name}"
    return in_order(over_batches(measure, rows, room, max_tokens, title, packed))
