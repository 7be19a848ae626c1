"""Where packed examples begin, as tensors on a device."""

from collections.abc import Sequence
from functools import lru_cache

import torch

from pipeline.prefix.packed.call import Tensor


def cu_seqlens(lengths: Sequence[int], device: torch.device) -> Tensor:
    """Running sums of lengths from 0 on, int32 `[examples + 1]`."""
    return _cu_seqlens(tuple(lengths), device)


def places(lengths: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Of each token the number of its example, and its place there, int64 `[tokens]`."""
    return _places(tuple(lengths), device)


def counts_of(rows: Sequence[int], device: torch.device) -> Tensor:
    """Tokens that each row has so far, int64 `[rows]`."""
    return _counts_of(tuple(rows), device)


# Every layer of a batch asks for the same, which is not copied to the device again. Not made in
# inference mode, whose tensors no later backward pass may use.
@lru_cache(maxsize=4)
@torch.inference_mode(False)
def _cu_seqlens(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    sums = torch.tensor([0, *lengths]).cumsum(0, dtype=torch.int32)
    return sums.to(device)


@lru_cache(maxsize=4)
@torch.inference_mode(False)
def _places(lengths: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    counts = torch.tensor(lengths)
    example = torch.arange(len(lengths)).repeat_interleave(counts)
    place = torch.arange(sum(lengths)) - (counts.cumsum(0) - counts)[example]
    return example.to(device), place.to(device)


@lru_cache(maxsize=4)
@torch.inference_mode(False)
def _counts_of(rows: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(rows, device=device)
