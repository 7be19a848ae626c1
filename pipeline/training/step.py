"""One optimizer step on its way."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from pipeline.data.batching import Example
from pipeline.prefix import PrefixModel

ModelOfStep = Callable[[int], PrefixModel | None]
"""Gives a step's model with other prefixes beside the trained one; None for it alone."""


@dataclass
class Step:
    """What a step is computed from, and what has come of it so far.

    Attributes:
        number: from 1 on.
        began: `time.perf_counter()` at its begin.
        states: where the random generators stood then.
        rate: its learning rate.
        examples: those whose gradients it adds up, all micro-batches.
        loss: nats per target token, the mean over all of them.
        gradient_norm: before clipping.
        seconds: what it took, its share where several trainings took it together.
    """

    number: int
    began: float
    states: Mapping[str, torch.Tensor]
    rate: float
    examples: list[Example]
    loss: float = 0.0
    gradient_norm: float = 0.0
    seconds: float = 0.0

    @property
    def tokens(self) -> int:
        """Those of all its examples."""
        return sum(len(example["input_ids"]) for example in self.examples)

    @property
    def targets(self) -> int:
        """Those of its tokens that count in the loss."""
        return self.tokens - sum(example["target_start"] for example in self.examples)
