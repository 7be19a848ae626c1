"""The loss of batches that are padded on the right."""

from collections.abc import Sequence

import torch

from pipeline.data.batching import IGNORED, Example, pad_rows, parts_of_like_length
from pipeline.loss.cross_entropy import summed_cross_entropy
from pipeline.prefix import PrefixModel


class PaddedLoss:
    """The loss of a model that packed rows do not serve, one subclass a kind of target."""

    def __init__(self, model: PrefixModel) -> None:
        self.model = model

    def parts(self, examples: Sequence[Example]) -> list[list[Example]]:
        """A batch in the parts that one call takes, as in `TargetLoss`."""
        return parts_of_like_length(examples)

    def __call__(self, examples: Sequence[Example], weight: float = 1.0) -> torch.Tensor:
        """The examples' summed cross-entropy (nats, float32 scalar) of targets, weighted."""
        logits, labels = self.logits(examples)
        is_target = labels != IGNORED
        chosen = logits[is_target.to(logits.device)]
        return summed_cross_entropy(chosen, labels[is_target], weight)

    def logits(self, examples: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits `[rows, targets, classes]` and labels `[rows, targets]`, padded by `IGNORED`."""
        raise NotImplementedError

    def inputs(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """The inputs, padded on the right: `input_ids` and `attention_mask` `[rows, tokens]`."""
        rows = [list(example["input_ids"][: example["target_start"]]) for example in examples]
        # RoBERTa counts positions, and causal classifiers find the last token, by the padding.
        padding = self.model.config.pad_token_id or 0
        ids = self._padded(rows, padding)
        mask = self._padded([[1] * len(row) for row in rows], 0)
        return {"input_ids": ids, "attention_mask": mask}

    def _targets(self, examples: Sequence[Example]) -> torch.Tensor:
        rows = [list(example["input_ids"][example["target_start"] :]) for example in examples]
        return self._padded(rows, IGNORED)

    def _padded(self, rows: list[list[int]], value: int) -> torch.Tensor:
        return pad_rows(rows, value, self.model.device)
