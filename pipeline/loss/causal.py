"""The cross-entropy of the target tokens, with logits at no other position."""

import inspect
from collections.abc import Sequence

import torch

from pipeline.data.batching import IGNORED, Example, pack, pad, parts_of_like_length
from pipeline.loss.cross_entropy import summed_cross_entropy
from pipeline.prefix import PrefixModel


class TargetLoss:
    """The loss of a model's targets, by the fastest way that its architecture allows."""

    def __init__(self, model: PrefixModel) -> None:
        self.model = model
        self.is_packed = model.why_not_packed() is None

    def parts(self, examples: Sequence[Example]) -> list[list[Example]]:
        """A batch in the parts that one call takes: whole where packed, else of like length."""
        return [list(examples)] if self.is_packed else parts_of_like_length(examples)

    def __call__(self, examples: Sequence[Example], weight: float = 1.0) -> torch.Tensor:
        """The examples' summed cross-entropy (nats, float32 scalar) of target tokens, weighted."""
        predicting, labels = self._packed(examples) if self.is_packed else self._padded(examples)
        return summed_cross_entropy(predicting, labels, weight)

    def _packed(self, examples: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
        row = pack(examples, self.model.device)
        # The logits that predict a token are at the position before it.
        predicting = row.targets - 1
        logits = self.model.packed_logits(row.input_ids, row.lengths, predicting)
        return logits, row.input_ids[row.targets]

    def _padded(self, examples: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
        # The padding token is masked wherever it stands.
        batch = pad(examples, 0, self.model.device)
        is_target = batch.labels != IGNORED
        width = batch.labels.shape[1]
        # Padded on the left, targets end together: the logits before the last columns are enough.
        first = int(is_target.any(dim=0).nonzero()[0])
        kept = torch.arange(first - 1, width - 1, device=self.model.device)
        parameters = inspect.signature(self.model.frozen_model.forward).parameters
        # Indices rather than a number: a slice of the hidden states is not contiguous, and torch
        # would multiply it by a copy of the output embedding for every row.
        extra = {"logits_to_keep": kept} if "logits_to_keep" in parameters else {}
        if "position_ids" in parameters:
            extra["position_ids"] = (batch.attention_mask.cumsum(-1) - 1).clamp(min=0)
        logits = self.model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            use_cache=False,
            **extra,
        ).logits
        if "logits_to_keep" not in extra:
            logits = logits[:, kept]
        chosen = is_target[:, first:]
        return logits[chosen], batch.labels[:, first:][chosen]
