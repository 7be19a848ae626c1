"""How tokens are chosen, one after another, from the logits of a row."""

from dataclasses import dataclass

import torch
from transformers import TemperatureLogitsWarper, TopPLogitsWarper

# Below it the likeliest token has all of the mass, and scores may leave what float32 holds.
_LEAST_TEMPERATURE = 1e-6


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen: greedily at temperature 0, else sampled from `top_p` of the mass."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn."""
        return self.temperature > _LEAST_TEMPERATURE


class Sampler:
    """Draws one row's tokens from random numbers of its own.

    So a seed gives the same tokens whatever else is sampled beside it. Logits are changed as by
    transformers' `generate`, in its order.
    """

    def __init__(self, decoding: Decoding, device: torch.device) -> None:
        self._generator = torch.Generator(device).manual_seed(decoding.seed)
        self._warpers = [TemperatureLogitsWarper(decoding.temperature)]
        if decoding.top_p < 1:
            self._warpers.append(TopPLogitsWarper(decoding.top_p))

    def __call__(self, logits: torch.Tensor) -> int:
        """The next token, by the row's logits `[vocabulary]`."""
        scores = logits.float().unsqueeze(0)
        for warper in self._warpers:
            scores = warper(torch.empty(1, 0, dtype=torch.long), scores)
        drawn = torch.multinomial(scores.softmax(-1), 1, generator=self._generator)
        return int(drawn)
