"""The distance of a model's predictions from a teacher's, at every position of a target.

The teacher's top k tokens are classes of their own, and all other tokens together are one more, of
which the teacher's probability is what its top k leave, and the student's what it gives the same
tokens: docs/distillation.md has the formula. It is a lower bound of the divergence over the whole
vocabulary (data processing inequality), and the same where k is the vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from pipeline.data.batching import Example
from pipeline.data.teacher import TEACHER_IDS, TEACHER_LOG_PROBS
from pipeline.loss.cross_entropy import scaled
from pipeline.loss.states import TargetStates, chunks
from pipeline.prefix import PrefixModel

_TINY = 1e-30
_ROWS_IN_CACHE, _ROWS_OF_A_GPU = 32, 1024


class DistillationLoss(TargetStates):
    """`share` of the divergence from the teacher, and the rest of the target's cross-entropy.

    Examples have the columns `TEACHER_IDS` and `TEACHER_LOG_PROBS`. The gradient at the logits is
    made with the loss, a chunk at a time, and only what it is at the hidden states is kept.
    """

    def __init__(self, model: PrefixModel, share: float) -> None:
        super().__init__(model)
        self.share = share

    def of(
        self,
        predicted: torch.Tensor,
        targets: torch.Tensor,
        examples: Sequence[Example],
        weight: float = 1.0,
    ) -> torch.Tensor:
        total, _ = self._compared(predicted, targets, examples, weight)
        return total

    @torch.no_grad()
    def measured(self, examples: Sequence[Example]) -> tuple[float, float]:
        """The summed cross-entropy of targets and the summed divergence, nats each."""
        sums = [
            self._compared(predicted, targets, part, 1.0)[1]
            for part, predicted, targets in self.predictions(examples)
        ]
        cross_entropy, divergence = torch.stack(sums).sum(dim=0).tolist()
        return cross_entropy, divergence

    def _compared(
        self,
        predicted: torch.Tensor,
        targets: torch.Tensor,
        examples: Sequence[Example],
        weight: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        device = predicted.device
        ids = np.concatenate([example[TEACHER_IDS] for example in examples])
        log_probs = np.concatenate([example[TEACHER_LOG_PROBS] for example in examples])
        total, sums = _Compared.apply(
            predicted,
            self.logits,
            targets.to(device),
            torch.as_tensor(ids, device=device).long(),
            torch.as_tensor(log_probs, device=device).float(),
            self.share,
            weight,
        )
        return total, sums


def compared(
    logits: torch.Tensor,
    targets: torch.Tensor,
    ids: torch.Tensor,
    log_probs: torch.Tensor,
    share: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What rows of logits `[rows, vocabulary]` come to, and the gradient of their weighted sum.

    Args:
        logits: the student's.
        targets: int64 `[rows]`.
        ids: int64 `[rows, k]`, the teacher's top k tokens, each once.
        log_probs: float32 `[rows, k]`, the teacher's of these tokens.
        share: of the divergence in the sum; the rest is the cross-entropy's.

    Returns:
        float32 `[2]`, the summed cross-entropy and the summed divergence (nats), and float32
        `[rows, vocabulary]`, the gradient at the logits.
    """
    at = _Distance(logits, ids, log_probs)
    cross_entropy = at.lse - logits.gather(1, targets[:, None]).to(at.lse.dtype)
    sums = torch.stack([cross_entropy.sum(), at.divergence.sum()])
    # Of the divergence, q - p at the top k and q (1 - left / given) at all others, where the
    # teacher's probabilities add up to 1: as rounded they add up to `whole`.
    whole = (at.teacher.sum(1) + at.left)[:, None]
    gradient = at.outside.mul_(share * (whole - (at.left / at.given)[:, None]))
    gradient.scatter_(1, ids, share * (at.own * whole - at.teacher))
    if share < 1.0:
        rest = 1.0 - share
        gradient += at.student.mul_(rest)
        gradient.scatter_add_(1, targets[:, None], gradient.new_full((len(targets), 1), -rest))
    return sums, gradient


@torch.no_grad()
def divergences(logits: torch.Tensor, ids: torch.Tensor, log_probs: torch.Tensor) -> torch.Tensor:
    """The divergence of each row (nats), float32 `[rows]`; arguments as of `compared`."""
    size = _ROWS_IN_CACHE if logits.device.type == "cpu" else _ROWS_OF_A_GPU
    parts = zip(*(t.to(logits.device).split(size) for t in (logits, ids, log_probs)), strict=True)
    return torch.cat([_Distance(*part).divergence for part in parts])


class _Distance:
    """Each row's divergence `[rows]`, and what it is made of.

    `student`: the probabilities `[rows, vocabulary]`, `lse` the logarithm of what they were divided
    by, `[rows, 1]`; `teacher` and `own`: those of the top k by either, `[rows, k]`; `outside` the
    student's of all others, of which `left` and `given` are the sums by teacher and student.
    """

    def __init__(self, logits: torch.Tensor, ids: torch.Tensor, log_probs: torch.Tensor) -> None:
        dtype = torch.promote_types(logits.dtype, torch.float32)
        self.student = torch.softmax(logits, dim=-1, dtype=dtype)
        top, best = logits.max(dim=-1, keepdim=True)
        # The highest probability is no less than 1 in the vocabulary: its logarithm is a number.
        self.lse = top.to(dtype) - self.student.gather(1, best).log()
        self.teacher = log_probs.to(dtype).exp()
        self.own = self.student.gather(1, ids)
        own_log_probs = logits.gather(1, ids).to(dtype) - self.lse
        self.divergence = (self.teacher * (log_probs.to(dtype) - own_log_probs)).sum(1)
        # What the top k leave: of the student added up, since 1 minus the rest would lose small
        # sums.
        self.outside = self.student.scatter(1, ids, 0.0)
        self.left = (1.0 - self.teacher.sum(1)).clamp(min=0.0)
        if ids.shape[1] == logits.shape[1]:
            self.left = torch.zeros_like(self.left)
        self.given = self.outside.sum(1).clamp(min=_TINY)
        self.divergence += torch.xlogy(self.left, self.left / self.given)


class _Compared(torch.autograd.Function):
    """The weighted sum, and beside it, without a gradient, what it is of."""

    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        logits_of: Callable[[torch.Tensor], torch.Tensor],
        targets: torch.Tensor,
        ids: torch.Tensor,
        log_probs: torch.Tensor,
        share: float,
        weight: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        gradient = torch.empty_like(states) if ctx.needs_input_grad[0] else None
        dtype = torch.promote_types(states.dtype, torch.float32)
        sums = torch.zeros(2, dtype=dtype, device=states.device)
        for rows in chunks(states):
            part = states[rows].detach()
            if gradient is None:
                logits = logits_of(part)
            else:
                with torch.enable_grad():
                    part.requires_grad_()
                    logits = logits_of(part)
            at = logits.detach()
            slope = torch.empty_like(at) if gradient is not None else None
            # So few rows at a time that a processor's cache holds what is made of them.
            size = _ROWS_IN_CACHE if at.device.type == "cpu" else len(at)
            for start in range(0, len(at), size):
                few = slice(start, start + size)
                chosen, k_ids, log_p = (
                    t[rows][few].to(at.device) for t in (targets, ids, log_probs)
                )
                found, own = compared(at[few], chosen, k_ids, log_p, share)
                sums += found.to(sums.device)
                if slope is not None:
                    slope[few] = own.mul_(weight)
            if gradient is not None and slope is not None:
                gradient[rows] = _through(logits, part, slope)
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(sums)
        mean = torch.tensor([1.0 - share, share], dtype=dtype, device=sums.device)
        return (sums * mean).sum() * weight, sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        return scaled(gradient, grads[0]), None, None, None, None, None, None


def _through(logits: torch.Tensor, states: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """The gradient at the states of that at their logits."""
    if logits is states:
        return slope
    (found,) = torch.autograd.grad(logits, states, slope)
    return found
