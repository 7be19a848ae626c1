"""RMS norms by the kernel (Zhang and Sennrich 2019, arXiv 1910.07467).

Models write them in ways of their own: the weight as it is or above 1, scaled in the dtype or in
float32. So each is tried once, with random states and a random weight, and served in the way that
gives its numbers.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.func import functional_call

from pipeline.prefix.packed.call import Tensor
from pipeline.prefix.packed.kernel.few_tokens.bound import Bound, is_plain
from pipeline.prefix.packed.kernel.few_tokens.forward import Forwards, forward_of
from pipeline.prefix.packed.kernel.few_tokens.functions import norm_function
from pipeline.prefix.packed.kernel.few_tokens.trial import Verdicts, agree, drawn_states

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


_verdicts = Verdicts[NormForm]()


def norm_forwards(modules: Iterable[nn.Module], bound: Bound) -> Forwards:
    """The RMS norms that the kernel knows."""
    for module in modules:
        if (form := norm_form(module, bound)) is not None:
            weight: Any = module.weight
            function = form.function(weight)
            yield module, forward_of(module.forward, function, bound, len(weight), _ROWS)


def norm_form(module: Any, bound: Bound) -> NormForm | None:
    """How a module is written; None for what is no norm that the kernel knows."""
    if not isinstance(module, nn.Module) or not _may_be_one(module, bound):
        return None
    return _verdicts.of(module, bound.dtype, lambda: _form_of(module))


def _may_be_one(module: nn.Module, bound: Bound) -> bool:
    if module._parameters.keys() != {"weight"} or module._modules or not is_plain(module):
        return False
    weight = module._parameters["weight"]
    return bound.has(weight) and weight is not None and weight.ndim == 1


def _form_of(module: Any) -> NormForm | None:
    size, dtype = len(module.weight), module.weight.dtype
    # As they begin, weights of 1 or 0 would hide where it rounds.
    weight = drawn_states(size, dtype, [1.0])[0, 0]
    # Small states show what is added to their square.
    states = drawn_states(size, dtype, (1.0, 1e-3, 30.0, 1e3))
    found = [getattr(module, name, None) for name in _EPSILONS]
    for epsilon in (value for value in found if isinstance(value, float)):
        for above in (0.0, 1.0):
            for rounds_first in (True, False):
                form = NormForm(epsilon, above, rounds_first)
                if agree(
                    lambda given: functional_call(module, {"weight": weight}, (given,)),
                    form.function(weight),
                    states,
                    exactly=True,
                ):
                    return form
    return None
