"""Index keys of a prefix, by which attention chooses among its keys: kept, never trained."""

import torch
from torch import nn

from pipeline.prefix.errors import PrefixError
from pipeline.prefix.parameters.config import PrefixConfig
from pipeline.prefix.states import StateShapes


class IndexKeys(nn.Module):
    """The index keys of every virtual token, in float32.

    What is chosen takes no gradient, so they stay as they start: those of a text with its keys and
    values; for noise, noise of the scale of the model's own; zeros for zeros, which score 0.

    Args:
        config: `num_virtual_tokens` p, and `init_weights` of what is there before a start is
            loaded.
        shapes: of each layer's index keys the shape without tokens and the scale.
    """

    def __init__(self, config: PrefixConfig, shapes: StateShapes) -> None:
        super().__init__()
        self.shapes = dict(shapes)
        p, sizes = config.num_virtual_tokens, [shape.numel for shape in self.shapes.values()]
        flat = torch.zeros(p, sum(sizes))
        if config.init_weights is None:
            for part, shape in zip(flat.split(sizes, 1), self.shapes.values(), strict=True):
                part.normal_(std=shape.scale)
        self.register_buffer("flat", flat)

    def forward(self) -> dict[str, torch.Tensor]:
        """Index keys `[p, ..., dim]` by name; views of one tensor."""
        flat = self.get_buffer("flat")
        parts = flat.split([shape.numel for shape in self.shapes.values()], 1)
        return {
            name: part.view(len(flat), *shape.shape)
            for part, (name, shape) in zip(parts, self.shapes.items(), strict=True)
        }

    @torch.no_grad()
    def load(self, index: dict[str, torch.Tensor]) -> None:
        """Take over given index keys; zeros where a prefix has none at all.

        Raises PrefixError when they are not those of the model.
        """
        flat = self.get_buffer("flat")
        if not index:
            flat.zero_()
            return
        found = {name: tuple(keys.shape[1:]) for name, keys in index.items()}
        wanted = {name: shape.shape for name, shape in self.shapes.items()}
        if found != wanted:
            raise PrefixError(
                f"the prefix has index keys {found}, the model {wanted}; it was made for another "
                "model"
            )
        flat.copy_(torch.cat([index[name].float().flatten(1) for name in self.shapes], 1))
