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
        return trained(*map(_float32, args), **{k: _float32(v) for k, v in kwargs.items()})


def _float32(value: Any) -> Any:
    floating = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.float() if floating else value
