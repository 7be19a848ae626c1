"""Texts that go on token by token, any number of them in one batch, after any prefixes."""

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from typing import Generic, TypeVar

import torch
from transformers import PreTrainedModel

from pipeline.inference.decoding import Decoding, Sampler
from pipeline.prefix.packed.running import Beginning, Row, RunningRows, Stem


class Continuation:
    """What a model writes after a stem and an input, so far.

    Args:
        stem: what the input follows.
        input_ids: tokens of the input, at least one.
        decoding: how the next is chosen, and how many there are at the most.
        ends: tokens that end it.

    Attributes:
        tokens: those that were chosen, the one that ended it included.
    """

    def __init__(
        self, stem: Stem, input_ids: Sequence[int], decoding: Decoding, ends: Collection[int]
    ) -> None:
        # The last token is chosen and never read.
        self.beginning = Beginning(stem, input_ids, max(1, decoding.max_new_tokens - 1))
        self.decoding = decoding
        self.tokens: list[int] = []
        self._ends = ends
        self._sampler: Sampler | None = None

    @property
    def cached_tokens(self) -> int:
        """The most tokens that it keeps in a cache."""
        return len(self.beginning.input_ids) + self.beginning.room

    def choose(self, likeliest: int, logits: torch.Tensor) -> bool:
        """Take the next token by logits `[vocabulary]`; returns whether another follows."""
        if not self.decoding.samples:
            return self.take(likeliest, logits)
        if self._sampler is None:
            self._sampler = Sampler(self.decoding, logits.device)
        return self.take(self._sampler(logits), logits)

    def take(self, token: int, logits: torch.Tensor) -> bool:
        """Go on with a token chosen by logits `[vocabulary]`; returns whether another follows."""
        self.tokens.append(token)
        return token not in self._ends and len(self.tokens) < self.decoding.max_new_tokens


Kind = TypeVar("Kind", bound=Continuation)


class Batch(Generic[Kind]):
    """Continuations that are computed together; each joins and leaves between two tokens.

    Packed rows have to serve each (`PrefixModel.why_not_packed`, of decoding). Not for several
    threads at once.
    """

    def __init__(self, frozen_model: PreTrainedModel) -> None:
        self._rows = RunningRows(frozen_model)
        self._running: dict[Row, Kind] = {}

    @property
    def running(self) -> list[Kind]:
        """Those that go on."""
        return list(self._running.values())

    @property
    def cached_tokens(self) -> int:
        """The tokens that there is room for in all their caches."""
        return sum(each.cached_tokens for each in self.running)

    def at_work(self) -> AbstractContextManager[None]:
        """Within it tokens follow faster, and all that other threads ask of the model waits."""
        return self._rows.at_work()

    @torch.inference_mode()
    def begin(self, joining: Sequence[Kind]) -> None:
        """Read the inputs of some in one pass, and choose the first token of each."""
        rows, logits = self._rows.join([each.beginning for each in joining])
        self._running.update(zip(rows, joining, strict=True))
        self._choose(rows, logits)

    @torch.inference_mode()
    def step(self) -> None:
        """Choose the next token of each that goes on."""
        rows = self._rows.rows
        logits = self._rows.step([self._running[row].tokens[-1] for row in rows])
        self._choose(rows, logits)

    def leave(self, leaving: Collection[Kind]) -> None:
        """Let some go before they have ended."""
        gone = [row for row, each in self._running.items() if each in leaving]
        self._rows.leave(gone)
        for row in gone:
            del self._running[row]

    def _choose(self, rows: Sequence[Row], logits: torch.Tensor) -> None:
        likeliest = logits.argmax(-1).tolist()
        ended = []
        for row, own, token in zip(rows, logits, likeliest, strict=True):
            each = self._running[row]
            if not each.choose(token, own):
                ended.append(each)
        if ended:
            self.leave(ended)
