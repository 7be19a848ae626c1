"""The loss of an encoder-decoder's target."""

from collections.abc import Sequence

import torch

from pipeline.data.batching import Example
from pipeline.loss.padded import PaddedLoss


class SourceTargetLoss(PaddedLoss):
    """An encoder-decoder's: the encoder reads the input, the decoder writes the target."""

    def logits(self, examples: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
        labels = self._targets(examples)
        # From labels each architecture makes its decoder's input as it was trained to.
        output = self.model(**self.inputs(examples), labels=labels, use_cache=False)
        return output.logits, labels
