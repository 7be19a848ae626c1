"""The distance of measured predictions from a teacher's, at the targets that were scored anyway."""

from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np
import torch

from pipeline.data.batching import Example
from pipeline.data.teacher import TEACHER_IDS, TEACHER_LOG_PROBS
from pipeline.loss.distillation import divergences

Distance = tuple[float, int]
"""An example's summed divergence (nats), and the target tokens that it is of."""


def distances(
    target_logits: Callable[[], torch.Tensor], examples: Sequence[Example]
) -> Sequence[Distance | None]:
    """Each example's distance; None where no teacher was asked.

    `target_logits` gives what predicts the targets, `[targets, vocabulary]`, of one example after
    the other. A target that ends otherwise than the teacher's is compared up to the shorter end:
    what predicts a token depends on those before it alone.
    """
    if TEACHER_IDS not in examples[0]:
        return [None] * len(examples)
    logits = target_logits()
    counts = [len(row["input_ids"]) - row["target_start"] for row in examples]
    taught = [min(n, len(row[TEACHER_IDS])) for n, row in zip(counts, examples, strict=True)]
    if taught != counts:
        starts = [0, *accumulate(counts)]
        kept = [np.arange(at, at + n) for at, n in zip(starts, taught, strict=False)]
        logits = logits[torch.as_tensor(np.concatenate(kept), device=logits.device)]
    ids, log_probs = (
        np.concatenate([row[name][:n] for row, n in zip(examples, taught, strict=True)])
        for name in (TEACHER_IDS, TEACHER_LOG_PROBS)
    )
    found = divergences(logits, torch.as_tensor(ids).long(), torch.as_tensor(log_probs).float())
    # Added up on the CPU: Apple's MPS has no float64.
    parts = found.cpu().double().split(taught)
    # No divergence is below 0, as the rounding of one that is 0 may be.
    return [(max(0.0, float(part.sum())), n) for part, n in zip(parts, taught, strict=True)]
