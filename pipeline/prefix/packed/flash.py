"""FlashAttention's kernels for packed (varlen) sequences, as torch has them for CUDA.

They are called as operators, below `torch.nn.attention.varlen.varlen_attn`: a backward pass may
have to be given another output and other log-sum-exps than those of its forward pass.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import torch

from pipeline.prefix.packed.call import Tensor
from pipeline.prefix.packed.lengths import cu_seqlens


@dataclass(frozen=True)
class Sequences:
    """Where packed sequences begin, int32 `[sequences + 1]`, and how long the longest is."""

    starts: Tensor
    longest: int

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Self:
        """Those of so many tokens each."""
        return cls(cu_seqlens(lengths, device), max(lengths))


def varlen_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    of_queries: Sequences,
    of_keys: Sequences,
    scaling: float,
) -> tuple[Tensor, Tensor]:
    """Causal attention within each sequence, aligned to its last key.

    States are `[tokens, heads, size]`, as is the output; its log-sum-exps are float32
    `[heads, tokens]`.
    """
    out, lse, *_ = torch.ops.aten._flash_attention_forward(
        *(query, key, value, of_queries.starts, of_keys.starts),
        *(of_queries.longest, of_keys.longest, 0.0, True, False),
        scale=scaling,
    )
    return out, lse


def varlen_backward(
    grad: Tensor,
    states: tuple[Tensor, Tensor, Tensor],
    out: Tensor,
    lse: Tensor,
    of_queries: Sequences,
    of_keys: Sequences,
    scaling: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of query, key and value, as `varlen_forward` takes them."""
    with deterministic():
        of_query, of_key, of_value = torch.ops.aten._flash_attention_backward(
            *(grad, *states, out, lse.contiguous(), of_queries.starts, of_keys.starts),
            *(of_queries.longest, of_keys.longest, 0.0, True, *no_dropout(grad)),
            scale=scaling,
        )
    return of_query, of_key, of_value


def no_dropout(states: Tensor) -> tuple[Tensor, Tensor]:
    """In place of the random numbers of a dropout that there is not."""
    return states.new_empty(2, dtype=torch.uint64), states.new_empty(0)


def last_contiguous(states: Tensor) -> Tensor:
    """States whose numbers of a head lie one after another, as the kernels read them."""
    return states if states.stride(-1) == 1 else states.contiguous()


@contextmanager
def deterministic() -> Iterator[None]:
    """Sums of a backward pass in a fixed order: two trainings end with the same bytes."""
    before = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    fills = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns)
        torch.utils.deterministic.fill_uninitialized_memory = fills  # type: ignore[attr-defined]
