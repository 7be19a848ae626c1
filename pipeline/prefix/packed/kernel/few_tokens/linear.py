"""Linear layers by the kernel: each alone, or those of one input at once."""

from collections.abc import Callable, Iterator, Sequence

from torch import nn
from torch.nn import functional as F

from pipeline.prefix.packed.call import Tensor
from pipeline.prefix.packed.kernel.few_tokens.bound import Bound
from pipeline.prefix.packed.kernel.few_tokens.functions import linear_function

_QUERY_KEY_VALUE = ("q_proj", "k_proj", "v_proj")
"""What transformers' attentions call the layers that they give the same states."""

Forward = Callable[[Tensor], Tensor]


def linear_forwards(model: nn.Module, bound: Bound) -> Iterator[tuple[nn.Module, Forward]]:
    """A model's linear layers that the kernel serves, and the forward of each by it."""
    grouped = set()
    for module in model.modules():
        layers = [getattr(module, name, None) for name in _QUERY_KEY_VALUE]
        served = [layer for layer in layers if bound.serves(layer)]
        if len(served) == len(layers) and len({layer.in_features for layer in served}) == 1:
            grouped.update(served)
            yield from _SameInput(served, bound).forwards()
    for module in model.modules():
        if module not in grouped and bound.serves(module):
            yield module, _alone(module, bound)


def _alone(layer: nn.Linear, bound: Bound) -> Forward:
    by_kernel, weight, bias = linear_function([layer]), layer.weight, layer.bias

    def forward(states: Tensor) -> Tensor:
        if bound.holds(states, weight.shape[1]):
            return by_kernel(states)[0]
        return F.linear(states, weight, bias)

    return forward


class _SameInput:
    """Layers that are computed with the first of them that is asked, and kept for the others."""

    def __init__(self, layers: Sequence[nn.Linear], bound: Bound) -> None:
        self._layers, self._bound = layers, bound
        self._by_kernel = linear_function(layers)
        # Held, so that no other states can be taken for them.
        self._given: Tensor | None = None
        self._ready: dict[nn.Linear, Tensor] = {}

    def forwards(self) -> Iterator[tuple[nn.Module, Forward]]:
        """Of each layer its forward."""
        for layer in self._layers:
            yield layer, self._forward(layer)

    def _forward(self, layer: nn.Linear) -> Forward:
        weight, bias = layer.weight, layer.bias

        def forward(states: Tensor) -> Tensor:
            if states is self._given and layer in self._ready:
                return self._ready.pop(layer)
            if not self._bound.holds(states, weight.shape[1]):
                return F.linear(states, weight, bias)
            results = self._by_kernel(states)
            self._given = states
            self._ready = dict(zip(self._layers, results, strict=True))
            return self._ready.pop(layer)

        return forward
