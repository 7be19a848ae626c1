"""Hooks that let trained copies of a frozen model's modules answer in their place."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from pipeline.prefix.injection.hooks import Injection
from pipeline.prefix.parameters.heads import TrainedModules


class HeadInjection(Injection):
    """A hook on each of the model's own modules returns what its copy computes.

    The model's own weights stay as they are.
    """

    def __init__(self, model: PreTrainedModel, heads: TrainedModules) -> None:
        super().__init__(model)
        self._heads = heads

    def _hooks(self) -> Iterator[RemovableHandle]:
        for own, trained in self._heads.pairs():
            # No function of its own: a copy's hooks are the copy's, and can be pickled.
            yield own.register_forward_hook(partial(self._answer, trained), with_kwargs=True)

    def _answer(
        self,
        trained: nn.Module,
        _: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
    ) -> Any:
        if not self._at_work.active:
            return output
        # The copies are where the prefix is, which in a model that is spread over devices is not
        # where its last layer is.
        device = next((p.device for p in trained.parameters()), None)
        given = {name: _float32(value, device) for name, value in kwargs.items()}
        return trained(*(_float32(value, device) for value in args), **given)


def _float32(value: Any, device: torch.device | None) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return value.to(device, torch.float32 if value.is_floating_point() else value.dtype)
