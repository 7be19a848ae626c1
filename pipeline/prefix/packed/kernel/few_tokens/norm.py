"""RMS norms by the kernel (Zhang and Sennrich 2019, arXiv 1910.07467).

Models write them in ways of their own: the weight as it is or above 1, scaled in the dtype or in
float32. So each is tried once, on random states, and served in the way that gives its numbers.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from pipeline.prefix.packed.call import Tensor
from pipeline.prefix.packed.kernel.few_tokens.bound import Bound, is_plain
from pipeline.prefix.packed.kernel.few_tokens.functions import norm_function
from pipeline.prefix.packed.kernel.few_tokens.trial import agree, drawn_states

_EPSILONS = ("variance_epsilon", "eps", "epsilon")
# Of a few tokens a norm may have as many rows as they have heads.
_ROWS = 64


@dataclass(frozen=True)
class NormForm:
    """How a norm is written: what is added to its weight, and where it rounds."""

    epsilon: float
    above: float
    rounds_first: bool

    def scale(self, weight: Tensor) -> Tensor:
        """What states are multiplied by, float32 `[size]`."""
        return weight.detach().float().contiguous() + self.above

    def function(self, weight: Tensor) -> Callable[[Tensor], Tensor]:
        """A norm that is written so."""
        return norm_function(self.scale(weight), self.epsilon, self.rounds_first, weight.dtype)


_tried: WeakKeyDictionary[nn.Module, dict[torch.dtype, NormForm | None]] = WeakKeyDictionary()


def norm_forwards(
    model: nn.Module, bound: Bound
) -> Iterator[tuple[nn.Module, Callable[[Tensor], Tensor]]]:
    """A model's RMS norms, and the forward of each by the kernel."""
    for module in model.modules():
        if (form := norm_form(module, bound)) is not None:
            yield module, _forward(module, form, bound)


def norm_form(module: Any, bound: Bound) -> NormForm | None:
    """How a module is written; None for what is no norm that the kernel knows."""
    if not isinstance(module, nn.Module) or not _may_be_one(module, bound):
        return None
    forms = _tried.setdefault(module, {})
    if bound.dtype not in forms:
        forms[bound.dtype] = _form_of(module)
    return forms[bound.dtype]


def _may_be_one(module: nn.Module, bound: Bound) -> bool:
    if module._parameters.keys() != {"weight"} or module._modules or not is_plain(module):
        return False
    weight = module.weight
    return isinstance(weight, Tensor) and weight.ndim == 1 and bound.has(weight)


def _form_of(module: Any) -> NormForm | None:
    weight = module.weight
    epsilons = [getattr(module, name) for name in _EPSILONS if hasattr(module, name)]
    # Small ones show what is added to their square.
    states = drawn_states(weight.shape[0], weight.dtype, (1.0, 1e-3, 30.0))
    for epsilon in epsilons:
        for above in (0.0, 1.0):
            for rounds_first in (True, False):
                form = NormForm(epsilon, above, rounds_first)
                if agree(module.forward, form.function(weight), states, exactly=True):
                    return form
    return None


def _forward(module: Any, form: NormForm, bound: Bound) -> Callable[[Tensor], Tensor]:
    own, size = module.forward, module.weight.shape[0] * _ROWS
    by_kernel = form.function(module.weight)

    def forward(states: Tensor) -> Tensor:
        result: Tensor = by_kernel(states) if bound.holds(states, size) else own(states)
        return result

    return forward
