"""Whether the kernel gives a module's own numbers, on random states."""

from collections.abc import Callable, Sequence

import torch

from pipeline.prefix.packed.call import Tensor

# Of the norm of each token: some roundings of the dtype.
_TOLERANCES = {torch.bfloat16: 1e-2}
_TOLERANCE = 1e-5
# Of a norm alone, whose sums hardly differ: a number in some hundreds rounds the other way.
_CLOSE = {torch.bfloat16: 5e-4}
_CLOSELY = 1e-6


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

    A module that cannot be tried does not agree.
    """
    try:
        expected = own(states)
    except Exception:  # models raise whatever they like for what they were not made for
        return False
    if not isinstance(expected, Tensor) or expected.dtype != states.dtype:
        return False
    found = by_kernel(states)
    if found.shape != expected.shape:
        return False
    off = (found.float() - expected.float()).norm(dim=-1)
    bounds, default = (_CLOSE, _CLOSELY) if exactly else (_TOLERANCES, _TOLERANCE)
    bound = bounds.get(states.dtype, default)
    return bool((off <= bound * expected.float().norm(dim=-1)).all())
