"""Whether the kernel gives a module's own numbers, on random states."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import nn

from pipeline.prefix.packed.call import Tensor

Found = TypeVar("Found")

# Of the norm of each token: some roundings of the dtype.
_TOLERANCES = {torch.bfloat16: 6e-3}
_TOLERANCE = 1e-5
# Of a norm alone, whose sums hardly differ: a number in some hundreds rounds the other way.
_CLOSE = {torch.bfloat16: 5e-4}
_CLOSELY = 1e-6


class UndecidedError(Exception):
    """A trial that shows nothing: weights that are zero, or not finite, hide what is done."""


class Verdicts(Generic[Found]):
    """What trials have found, of each module as it is set."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[nn.Module, dict[Hashable, Found | None]]
        self._known = WeakKeyDictionary()

    def of(
        self, module: nn.Module, dtype: torch.dtype, trial: Callable[[], Found | None]
    ) -> Found | None:
        """What a trial finds of a module, or has found; None for one that is not served.

        Weights may change between two uses, and settings too, which are then tried again.
        """
        known, key = self._known.setdefault(module, {}), (dtype, *_settings(module))
        if key not in known:
            try:
                known[key] = trial()
            except UndecidedError:
                return None
        return known[key]


def _settings(module: nn.Module) -> Iterator[tuple[str, Hashable]]:
    for part in module.modules():
        for name, value in vars(part).items():
            if value is None or isinstance(value, int | float | str):
                yield name, value


def drawn_states(size: int, dtype: torch.dtype, sizes: Sequence[float]) -> Tensor:
    """A token of each size `[1, len(sizes), size]`, the same in each process."""
    draw = torch.Generator().manual_seed(0)
    states = torch.randn(1, len(sizes), size, generator=draw)
    return (states * torch.tensor(sizes)[:, None]).to(dtype)


@torch.no_grad()
def agree(
    own: Callable[[Tensor], Tensor],
    by_kernel: Callable[[Tensor], Tensor],
    states: Tensor,
    exactly: bool = False,
) -> bool:
    """Whether both give the same, but for rounding; `exactly` for what must round alike, too.

    What cannot be tried does not agree. Raises UndecidedError where there is nothing to see.
    """
    try:
        expected, found = own(states), by_kernel(states)
    except Exception:  # models raise whatever they like for what they were not made for
        return False
    if not isinstance(expected, Tensor):
        return False
    if (found.shape, found.dtype) != (expected.shape, expected.dtype):
        return False
    bounds, default = (_CLOSE, _CLOSELY) if exactly else (_TOLERANCES, _TOLERANCE)
    off = (found.float() - expected.float()).norm(dim=-1)
    sizes = expected.float().norm(dim=-1)
    if not (sizes.isfinite() & (sizes > 0)).all():
        raise UndecidedError
    return bool((off <= bounds.get(states.dtype, default) * sizes).all())
