"""The loss of a classifier's labels."""

from collections.abc import Sequence

import torch

from pipeline.data.batching import Example
from pipeline.loss.padded import PaddedLoss


class ClassLoss(PaddedLoss):
    """A classifier's: one label for the input, or one for the first token of each word."""

    def logits(self, examples: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
        labels = self._targets(examples)
        logits = self.model(**self.inputs(examples)).logits
        if logits.ndim == 2:
            return logits[:, None], labels
        at = self._padded([list(example["positions"]) for example in examples], 0)
        at = at.to(logits.device)
        rows = torch.arange(len(at), device=at.device)[:, None]
        return logits[rows, at], labels
