"""Decoding with the kernel's layers: of a few tokens, torch takes longer than reading the weights.

A decoded token reads every weight once, so that its time is that of memory. torch's products are
made for many tokens: of a few they take two to four times as long in float32, and where a
processor has no bfloat16 instructions (AVX-512 BF16, AMX) a plain loop multiplies such weights,
once over for each token. Here a weight is read once for all of a few tokens, and what stands
between the products, which would be a fifth of the time, goes with them. A token's sums are
float32, rounded once, in an order that no other token changes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from weakref import WeakSet

from torch import nn

from pipeline.prefix.architecture.turns import turn_of
from pipeline.prefix.packed.kernel.few_tokens.bound import Bound, bound_of
from pipeline.prefix.packed.kernel.few_tokens.decoder_layer import decoder_layer_forwards
from pipeline.prefix.packed.kernel.few_tokens.forward import Forwards
from pipeline.prefix.packed.kernel.few_tokens.gated import gated_forwards
from pipeline.prefix.packed.kernel.few_tokens.linear import linear_forwards
from pipeline.prefix.packed.kernel.few_tokens.norm import norm_forwards

_within: WeakSet[nn.Module] = WeakSet()

_KINDS = gated_forwards, linear_forwards, norm_forwards


@contextmanager
def kernel_layers(model: nn.Module) -> Iterator[None]:
    """Within it, a model's layers that the kernel serves compute few tokens by it.

    For decoding alone: no gradient goes through the kernel. Where there is nothing to gain it does
    nothing, nor within itself. Other threads wait for their turn with the model.
    """
    with turn_of(model):
        bound = None if model in _within else bound_of(model)
        if bound is None:
            yield
            return
        # All of them are found before one has another forward.
        forwards = list(_forwards(model, bound))
        _within.add(model)
        for layer, forward in forwards:
            layer.__dict__["forward"] = forward
        try:
            yield
        finally:
            for layer, _ in forwards:
                layer.__dict__.pop("forward", None)
            _within.discard(model)


def _forwards(model: nn.Module, bound: Bound) -> Forwards:
    """Of whole decoder layers, and of what stands in none that the kernel knows."""
    layers = dict(decoder_layer_forwards(model.modules(), bound))
    inner = {module for layer in layers for module in layer.modules()}
    others = [module for module in model.modules() if module not in inner]
    return chain(layers.items(), *(kind(others, bound) for kind in _KINDS))
