"""The examples that a prefix is looked at with."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from datasets import Dataset

from pipeline.data.batching import Example
from pipeline.data.beginning import following
from pipeline.data.measuring import over_batches
from pipeline.data.rows import rows_of
from pipeline.data.spread import spread
from pipeline.inspection.ablation import Loss
from pipeline.loss.for_model import loss_columns, loss_for
from pipeline.prefix import PrefixModel


def spread_evenly(split: Dataset, most: int, begins_text: bool) -> list[Example]:
    """Up to `most` examples of a split, from its first on, as they follow the prefix."""
    rows = following(split.select(spread(len(split), most)), begins_text)
    return list(rows_of(rows, loss_columns(rows)))


def loss_on(examples: Sequence[Example], max_tokens: int) -> Loss:
    """The mean loss of their targets, nats per target token, each token weighing the same.

    `max_tokens` bounds a batch's rows times (prefix + example).
    """
    targets = sum(len(row["input_ids"]) - row["target_start"] for row in examples)

    def loss(model: PrefixModel) -> float:
        loss_of = loss_for(model)
        lengths = [model.prefix_length + len(row["input_ids"]) for row in examples]

        def summed(some: list[Example]) -> float:
            return float(loss_of(some).item())

        batches = over_batches(summed, examples, lengths, max_tokens, title=None)
        return sum(result for _, result in batches) / targets

    return loss


def calls_of(model: PrefixModel, examples: Sequence[Example]) -> Iterator[dict[str, Any]]:
    """A call of the model for each input alone; of an encoder-decoder its decoder writes the
    target."""
    for example in examples:
        ids, start = list(example["input_ids"]), example["target_start"]
        call = {"input_ids": torch.tensor([ids[:start]], device=model.device)}
        if model.config.is_encoder_decoder:
            call["labels"] = torch.tensor([ids[start:]], device=model.device)
        yield call
