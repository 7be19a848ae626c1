"""Linear layers by the kernel: each alone, or those of one input at once."""

from collections.abc import Iterable, Sequence
from functools import partial

from torch import nn

from pipeline.prefix.packed.call import Tensor
from pipeline.prefix.packed.kernel.few_tokens.bound import Bound
from pipeline.prefix.packed.kernel.few_tokens.forward import Forwards, forward_of
from pipeline.prefix.packed.kernel.few_tokens.functions import linear_function

_QUERY_KEY_VALUE = ("q_proj", "k_proj", "v_proj")
"""What transformers' attentions call the layers that they give the same states."""


def linear_forwards(modules: Iterable[nn.Module], bound: Bound) -> Forwards:
    """The linear layers that the kernel serves; their class says all that they do."""
    left = dict.fromkeys(module for module in modules if bound.serves(module))
    for module in modules:
        named = [getattr(module, name, None) for name in _QUERY_KEY_VALUE]
        served = [layer for layer in named if layer in left]
        if len(served) == len(named) and len({layer.in_features for layer in served}) == 1:
            together = _SameInput(served)
            for layer in served:
                by_kernel = partial(together.result, layer)
                yield layer, forward_of(layer.forward, by_kernel, bound, layer.in_features)
                left.pop(layer, None)
    for layer in left:
        by_itself = partial(_SameInput([layer]).result, layer)
        yield layer, forward_of(layer.forward, by_itself, bound, layer.in_features)


class _SameInput:
    """Layers that are computed with the first of them that is asked, and kept for the others."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        self._layers, self._by_kernel = layers, linear_function(layers)
        # States are held, so that no others can be taken for them.
        self._kept: tuple[Tensor | None, int, dict[nn.Linear, Tensor]] = None, 0, {}

    def result(self, layer: nn.Linear, states: Tensor) -> Tensor:
        """What a layer makes of states."""
        given, version, ready = self._kept
        if states is given and version == _version(states) and layer in ready:
            return ready.pop(layer)
        results = self._by_kernel(states)
        if len(self._layers) == 1:
            return results[0]
        ready = dict(zip(self._layers, results, strict=True))
        result = ready.pop(layer)
        self._kept = states, _version(states), ready
        return result


def _version(states: Tensor) -> int:
    """How often states were changed in place; inference tensors do not count it."""
    return 0 if states.is_inference() else states._version
