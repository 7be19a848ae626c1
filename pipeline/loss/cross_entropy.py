"""The summed cross-entropy of targets, with the gradient of the logits made on the way.

torch's own goes over float32 copies of all logits several times forward and backward. Here a few
rows at a time, small enough for the processor's cache, become loss and gradient at once (on a GPU
more, enough to keep it busy); what is kept for the backward pass is that gradient, in the logits'
dtype.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

_ROWS_OF_A_CPU, _ROWS_OF_A_GPU = 32, 1024


def summed_cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, weight: float = 1.0
) -> torch.Tensor:
    """Nats, a float32 scalar, of `logits` `[n, vocabulary]` for the tokens `targets` `[n]`.

    The sum is multiplied by `weight`, which costs nothing here and a pass over all logits later.
    """
    # The last layer of a model that is spread over devices is not where its inputs were.
    loss: torch.Tensor = _SummedCrossEntropy.apply(logits, targets.to(logits.device), weight)
    return loss


@torch.no_grad()
def token_losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Nats of each token, float32 `[n]`, arguments as of `summed_cross_entropy`."""
    parts = zip(
        *(t.to(logits.device).split(_rows_at_once(logits)) for t in (logits, targets)), strict=True
    )
    return torch.cat([_losses(rows, at)[0] for rows, at in parts])


def _rows_at_once(logits: torch.Tensor) -> int:
    return _ROWS_OF_A_CPU if logits.device.type == "cpu" else _ROWS_OF_A_GPU


def _losses(rows: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of each row `[rows]` and its probabilities `[rows, vocabulary]`."""
    # Float32 at least: bfloat16 has 8 bits for numbers that are added up.
    dtype = torch.promote_types(rows.dtype, torch.float32)
    probabilities = torch.softmax(rows, dim=-1, dtype=dtype)
    # The highest probability is no less than 1 in the vocabulary: its logarithm, unlike that of a
    # target's, is always a number, and gives the log-sum-exp.
    top, best = rows.max(dim=-1, keepdim=True)
    lse = top.to(dtype) - probabilities.gather(1, best).log()
    return (lse - rows.gather(1, targets[:, None]).to(dtype)).squeeze(1), probabilities


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, targets: torch.Tensor, weight: float
    ) -> torch.Tensor:
        needed = ctx.needs_input_grad[0]
        gradient = torch.empty_like(logits) if needed else None
        total = torch.zeros((), dtype=torch.promote_types(logits.dtype, torch.float32))
        total = total.to(logits.device)
        count = _rows_at_once(logits)
        for start in range(0, len(logits), count):
            rows, at = logits[start : start + count], targets[start : start + count]
            losses, probabilities = _losses(rows, at)
            total += losses.sum()
            if gradient is not None:
                own = probabilities.new_full((len(at), 1), -1.0)
                probabilities.scatter_add_(1, at[:, None], own)
                gradient[start : start + count] = probabilities.mul_(weight)
        ctx.save_for_backward(gradient)
        return total * weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        return scaled(gradient, grads[0]), None, None


def scaled(gradient: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    """A gradient that was made with the loss, times the loss's own: 1 in the usual case."""
    return gradient if float(by) == 1.0 else gradient * by.to(gradient.dtype)
