"""Optimizers of torch's over single blocks of a prefix: each layer's keys, each layer's values."""

from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch

from pipeline.config.optimizer import MuonOptimizer
from pipeline.config.train import TrainParams
from pipeline.training.block_rates import by_rate
from pipeline.training.blocks import Block
from pipeline.training.muon import Muon

Views = list[tuple[Block, torch.Tensor]]


class BlockOptimizer(torch.optim.Optimizer):
    """Several optimizers as one, some of them over blocks of parameters in place of whole ones.

    An optimizer of torch's takes leaf tensors: a block is given to it as a detached view of its
    parameter, which an update in place reaches, and gets its part of the parameter's gradient
    before each step.

    Args:
        parts: the optimizers, over views and other parameters.
        views: each block, with the view that one of `parts` has.
        rate: what the first group says: `train.learning_rate`, of which the others' rates are
            multiples. It has no parameters.
    """

    def __init__(self, parts: Sequence[torch.optim.Optimizer], views: Views, rate: float) -> None:
        self._parts, self._views = list(parts), list(views)
        groups: list[dict[str, Any]] = [{"params": [], "lr": rate}]
        super().__init__([*groups, *(group for part in parts for group in part.param_groups)], {})
        self._share()

    def _share(self) -> None:
        """Let the parts work with this object's groups and states, so that both change as one."""
        groups = islice(self.param_groups, 1, None)
        for part in self._parts:
            part.state = self.state
            part.param_groups = list(islice(groups, len(part.param_groups)))

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Let each part take its step. There is no closure: gradients are there already."""
        for block, view in self._views:
            gradient = block.parameter.grad
            view.grad = None if gradient is None else block.within(gradient)
        for part in self._parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of the views, and of the parameters that they are of."""
        super().zero_grad(set_to_none)
        for block, _ in self._views:
            block.parameter.grad = None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's own, for all parts."""
        super().load_state_dict(state_dict)
        self._share()


def optimizer_of_blocks(
    params: TrainParams, blocks: Sequence[Block], others: list[dict[str, Any]]
) -> BlockOptimizer:
    """What `train.optimizer` names over blocks, at their rates, and AdamW over the other groups."""
    views: Views = [(block, block.within(block.parameter.detach())) for block in blocks]
    groups = [{"params": own, "lr": rate} for rate, own in by_rate(views, params).items()]
    how = params.optimizer
    parts: list[torch.optim.Optimizer] = []
    if isinstance(how, MuonOptimizer):
        parts.append(
            Muon(
                groups,
                weight_decay=params.weight_decay,
                momentum=how.momentum,
                nesterov=how.nesterov,
                ns_steps=how.ns_steps,
            )
        )
        groups = []
    if groups or others:
        # Not fused: that kernel takes numbers that lie one after another.
        parts.append(
            torch.optim.AdamW(
                [*groups, *others],
                betas=(how.betas[0], how.betas[1]),
                eps=how.eps,
                weight_decay=params.weight_decay,
            )
        )
    return BlockOptimizer(parts, views, params.learning_rate)
