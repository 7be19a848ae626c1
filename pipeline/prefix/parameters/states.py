"""Initial states of recurrent layers: numbers that are trained, and token ids that are kept."""

from typing import Literal

import torch
from torch import nn

from pipeline.prefix.errors import PrefixError
from pipeline.prefix.states import StateShapes


class StateParameters(nn.Module):
    """What recurrent layers start from, as parameters in float32.

    All of them are one flat tensor (`flat`), in the order of their names: optimizers have one group
    for states, whatever the layers. States of integers, the ids of the last tokens (Qwen4's
    n-grams), are no numbers to be trained: they are a buffer (`ids`), and stay as they start.

    Args:
        shapes: of each state its shape, its dtype and the scale of the model's own.
        init_weights: None draws the start, normal and of that scale; "zero" starts as a model
            does that has read nothing. Ids start at 0 either way.
    """

    def __init__(self, shapes: StateShapes, init_weights: Literal["zero"] | None) -> None:
        super().__init__()
        self.shapes = {n: shape for n, shape in shapes.items() if shape.is_trained}
        self.kept = {n: shape for n, shape in shapes.items() if not shape.is_trained}
        sizes = [shape.numel for shape in self.shapes.values()]
        start = torch.zeros(sum(sizes))
        if init_weights is None:
            for part, shape in zip(start.split(sizes), self.shapes.values(), strict=True):
                part.normal_(std=shape.scale)
        self.flat = nn.Parameter(start)
        if self.kept:
            count = sum(shape.numel for shape in self.kept.values())
            self.register_buffer("ids", torch.zeros(count, dtype=torch.long))

    def forward(self) -> dict[str, torch.Tensor]:
        """The states by name, those that are trained with gradients; views of one tensor."""
        states = _views(self.flat, self.shapes)
        return states | (_views(self.get_buffer("ids"), self.kept) if self.kept else {})

    def load(self, states: dict[str, torch.Tensor]) -> None:
        """Start from given states. Raises PrefixError when they are not those of the model."""
        shapes = self.shapes | self.kept
        for name, shape in shapes.items():
            if name not in states:
                raise PrefixError(
                    f"the prefix has no state {name}, the model has; it was made for other layers "
                    "or another model"
                )
            if (found := tuple(states[name].shape)) != shape.shape:
                raise PrefixError(
                    f"the prefix has {name} of shape {found}, the model {shape.shape}; it was "
                    "made for another model"
                )
        if more := [name for name in states if name not in shapes]:
            raise PrefixError(
                f"the prefix has a state {more[0]}, the model none; it was made for another model"
            )
        with torch.no_grad():
            self.flat.copy_(torch.cat([states[name].float().flatten() for name in self.shapes]))
            if self.kept:
                ids = torch.cat([states[name].flatten() for name in self.kept])
                self.get_buffer("ids").copy_(ids)


def _views(flat: torch.Tensor, shapes: StateShapes) -> dict[str, torch.Tensor]:
    parts = flat.split([shape.numel for shape in shapes.values()])
    return {
        name: part.view(shape.shape)
        for part, (name, shape) in zip(parts, shapes.items(), strict=True)
    }
