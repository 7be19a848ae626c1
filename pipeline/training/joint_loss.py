"""The losses of several prefixes' targets, from one packed row on the frozen model they share."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pipeline.data.batching import Example, pack
from pipeline.loss.causal import TargetLoss
from pipeline.prefix import KVPrefix, packed_logits_together


@dataclass(frozen=True)
class Share:
    """What one model has in a row.

    Attributes:
        loss_of: of a model that packed rows serve for each of the examples.
        examples: its own.
        weight: what the sum of their losses is multiplied by.
        prefix: what its `encoder.given()` gave.
        hidden: virtual tokens that its examples do not see.
    """

    loss_of: TargetLoss
    examples: Sequence[Example]
    weight: float
    prefix: KVPrefix | None
    hidden: frozenset[int] = frozenset()


def losses_together(shares: Sequence[Share]) -> list[torch.Tensor]:
    """Of each share what its `loss_of` gives: a sum over targets (nats, float32 scalar), weighted.

    Their losses are of one kind, that of one params.yaml. The backward pass of their sum gives each
    model its own gradient.
    """
    models = [share.loss_of.model for share in shares]
    row = pack([example for share in shares for example in share.examples], models[0].device)
    # The logits that predict a token are at the position before it.
    with shares[0].loss_of.predicting():
        predicted = packed_logits_together(
            models,
            row.input_ids,
            [[len(example["input_ids"]) for example in share.examples] for share in shares],
            row.targets - 1,
            [share.prefix for share in shares],
            [share.hidden for share in shares],
        )
    counts = [sum(map(_targets, share.examples)) for share in shares]
    targets = row.input_ids[row.targets]
    parts = zip(shares, predicted.split(counts), targets.split(counts), strict=True)
    return [share.loss_of.of(own, at, share.examples, share.weight) for share, own, at in parts]


def _targets(example: Example) -> int:
    return len(example["input_ids"]) - int(example["target_start"])
