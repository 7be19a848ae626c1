"""The summed cross-entropy of targets, with the gradient of the logits made on the way.

torch's own goes over float32 copies of all logits several times forward and backward. Here a few
rows at a time, small enough for the processor's cache, become loss and gradient at once; what is
kept for the backward pass is that gradient, in the logits' dtype.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

_ROWS = 32


def summed_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Nats, a float32 scalar, of `logits` `[n, vocabulary]` for the tokens `targets` `[n]`."""
    loss: torch.Tensor = _SummedCrossEntropy.apply(logits, targets)
    return loss


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        needed = ctx.needs_input_grad[0]
        gradient = torch.empty_like(logits) if needed else None
        # Float32 at least: bfloat16 has 8 bits for numbers that are added up.
        dtype = torch.promote_types(logits.dtype, torch.float32)
        losses = []
        for start in range(0, len(logits), _ROWS):
            rows, at = logits[start : start + _ROWS], targets[start : start + _ROWS, None]
            likelihoods = torch.log_softmax(rows, dim=-1, dtype=dtype)
            losses.append(-likelihoods.gather(1, at).sum())
            if gradient is not None:
                likelihoods.exp_().scatter_add_(1, at, likelihoods.new_full(at.shape, -1.0))
                gradient[start : start + _ROWS] = likelihoods
        ctx.save_for_backward(gradient)
        return torch.stack(losses).sum() if losses else logits.new_zeros((), dtype=dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0].to(gradient.dtype), None
