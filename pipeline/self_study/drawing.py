"""Drawing tokens from random numbers of each row's own."""

from collections.abc import Sequence

import torch

from pipeline.self_study.writing import Sampling


class Drawing:
    """Picks the tokens of a batch, each row's by its own seed: whoever shares the batch.

    Nucleus sampling (Holtzman et al. 2020, section 3.1): from the fewest likeliest tokens whose
    probabilities add up to `top_p`.
    """

    def __init__(self, seeds: Sequence[int], sampling: Sampling) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._sampling = sampling

    def __call__(self, rows: list[int], logits: torch.Tensor) -> torch.Tensor:
        """The next token `[rows]` of some rows of the batch, by logits `[rows, vocabulary]`."""
        if self._sampling.temperature == 0:
            return logits.argmax(-1)
        probabilities = (logits.float() / self._sampling.temperature).softmax(-1)
        ordered, tokens = probabilities.sort(descending=True, stable=True)
        sums = ordered.cumsum(-1)
        # The first is always among them.
        count = (sums - ordered < self._sampling.top_p).sum(-1, keepdim=True)
        mass = sums.gather(-1, count - 1)
        drawn = torch.stack([torch.rand(1, generator=self._generators[row]) for row in rows])
        at = (sums < drawn.to(sums.device) * mass).sum(-1, keepdim=True)
        return tokens.gather(-1, at.minimum(count - 1)).squeeze(-1)
