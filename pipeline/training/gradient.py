"""The gradient of a step: of all its examples, a call of the model at a time."""

from collections.abc import Iterator, Sequence

import torch

from pipeline.distributed.ranks import Ranks
from pipeline.loss.causal import TargetLoss
from pipeline.training.left_out import Group, LeftOut
from pipeline.training.parts import grouped_parts_of, loss_of_groups
from pipeline.training.step import ModelOfStep, Step


class Gradient:
    """Adds up the gradient of the mean loss over all target tokens of a step.

    Args:
        loss_of: of the model that is trained.
        batch_size: examples at once, of which each process has its share.
        ranks: the processes.
        beside: other prefixes that stand beside its own, in all of a step or in none.
        left_out: what of its prefix is hidden from examples.
    """

    def __init__(
        self,
        loss_of: TargetLoss,
        batch_size: int,
        ranks: Ranks,
        beside: ModelOfStep | None,
        left_out: LeftOut,
    ) -> None:
        self._loss_of, self._size, self._ranks = loss_of, batch_size, ranks
        self._beside, self._left_out = beside, left_out

    def add_up(self, step: Step, scale: float, trainable: Sequence[torch.nn.Parameter]) -> None:
        """Leave the gradient, times a scale, in the parameters, and the loss in the step."""
        model = None if self._beside is None else self._beside(step.number)
        loss_of = self._loss_of if model is None else self._loss_of.of_model(model)
        weight = scale / step.targets
        step.loss = 0.0
        for groups, counts in self.parts(step, loss_of):
            loss = loss_of_groups(loss_of, groups, weight * counts)
            if loss.requires_grad:
                loss.backward()
            step.loss += loss.item() / scale
        self._ranks.add_gradients(trainable)
        step.loss = self._ranks.sum(step.loss)

    def parts(
        self, step: Step, loss_of: TargetLoss | None = None
    ) -> Iterator[tuple[list[Group], float]]:
        """A step's examples as one call takes them after the other (see `grouped_parts_of`)."""
        loss_of = loss_of or self._loss_of
        for start in range(0, len(step.examples), self._size):
            batch = step.examples[start : start + self._size]
            yield from grouped_parts_of(batch, loss_of, self._ranks, self._left_out, step.number)
