"""What a generator is asked, and what it gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Request:
    """What is asked below a chunk, and the seed of what is written."""

    ask: str
    seed: int


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen: greedily at temperature 0, else from `top_p` of the mass."""

    temperature: float
    top_p: float
    max_tokens: int


@dataclass(frozen=True)
class Written:
    """A text, and whether it reached its end within `max_tokens`."""

    text: str
    is_finished: bool


class Writer(Protocol):
    """A model that reads a chunk and writes below it."""

    def write(self, context: str, requests: Sequence[Request], sampling: Sampling) -> list[Written]:
        """What is written for each request, asked by itself after the context.

        Raises PipelineError when the model cannot be had, or has no room for it.
        """
