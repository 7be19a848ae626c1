"""Trainable initial states of recurrent layers."""

from typing import Literal

import torch
from torch import nn

from pipeline.prefix.errors import PrefixError
from pipeline.prefix.states import StateShapes


class StateParameters(nn.Module):
    """What recurrent layers start from, as parameters in float32.

    All of them are one flat tensor (`flat`), in the order of their names: optimizers have one group
    for states, whatever the layers.

    Args:
        shapes: of each state its shape and the scale of the model's own.
        init_weights: None draws the start, normal and of that scale; "zero" starts as a model
            does that has read nothing.
    """

    def __init__(self, shapes: StateShapes, init_weights: Literal["zero"] | None) -> None:
        super().__init__()
        self.shapes = dict(shapes)
        sizes = [shape.numel for shape in self.shapes.values()]
        start = torch.zeros(sum(sizes))
        if init_weights is None:
            for part, shape in zip(start.split(sizes), self.shapes.values(), strict=True):
                part.normal_(std=shape.scale)
        self.flat = nn.Parameter(start)

    def forward(self) -> dict[str, torch.Tensor]:
        """The states by name, with gradients; views of one tensor."""
        parts = self.flat.split([shape.numel for shape in self.shapes.values()])
        return {
            name: part.view(shape.shape)
            for part, (name, shape) in zip(parts, self.shapes.items(), strict=True)
        }

    def load(self, states: dict[str, torch.Tensor]) -> None:
        """Start from given states. Raises PrefixError when they are not those of the model."""
        for name, shape in self.shapes.items():
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
        if more := [name for name in states if name not in self.shapes]:
            raise PrefixError(
                f"the prefix has a state {more[0]}, the model none; it was made for another model"
            )
        with torch.no_grad():
            self.flat.copy_(torch.cat([states[name].float().flatten() for name in self.shapes]))
