"""One answer of a request while it is written: its text, log-probabilities and end."""

import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from transformers import PreTrainedTokenizerBase

from pipeline.errors import first_line
from pipeline.inference.continuations import Continuation
from pipeline.inference.decoding import Decoding
from pipeline.prefix.packed.running import Stem
from pipeline.serving.batching.text import GrowingText

Reason = Literal["stop", "length"]


@dataclass(frozen=True)
class TokenChance:
    """A token with its log-probability, and the likeliest at its place, the best first.

    Log-probabilities are the model's own, whatever the temperature.
    """

    token: int
    logprob: float
    top: Sequence[tuple[int, float]] = ()


@dataclass(frozen=True)
class Piece:
    """What a step added: text that is sure, its tokens' chances where asked for, and the end.

    `error` is the sentence that ends it where computing failed.
    """

    text: str = ""
    chances: Sequence[TokenChance] = ()
    reason: Reason | None = None
    error: str | None = None

    @property
    def is_last(self) -> bool:
        return self.reason is not None or self.error is not None


@dataclass(frozen=True)
class Wanted:
    """What a request wants of each of its answers.

    Attributes:
        stop: strings before which a text ends.
        top: how many of the likeliest tokens are told at each place; None for no chances at all.
        ignores_end: whether the tokens that end a text end none.
    """

    stop: Sequence[str] = ()
    top: int | None = None
    ignores_end: bool = False


class Choice(Continuation):
    """A continuation that tells `emit` what it has become after each token.

    `emit` is called by the thread that computes. Whoever wants no more sets `is_cancelled`.
    """

    def __init__(
        self,
        stem: Stem,
        input_ids: Sequence[int],
        decoding: Decoding,
        ends: Collection[int],
        tokenizer: PreTrainedTokenizerBase,
        wanted: Wanted,
        emit: Callable[[Piece], None],
    ) -> None:
        super().__init__(stem, input_ids, decoding, () if wanted.ignores_end else ends)
        self.is_cancelled = False
        self.emit = emit
        self._wanted = wanted
        self._text = GrowingText(tokenizer, wanted.stop)
        self._chances: list[TokenChance] = []

    def choose(self, likeliest: int, logits: torch.Tensor) -> bool:
        """See `Continuation.choose`; what fails here ends this choice and no other."""
        try:
            return super().choose(likeliest, logits)
        except Exception as error:
            self.fail(error)
            return False

    def fail(self, error: Exception) -> None:
        """End it: the log is told why, and the client that it does."""
        print(f"error: a request could not be computed: {first_line(error)}", file=sys.stderr)
        self.emit(Piece(error="the answer could not be computed; the server's log says why"))

    def take(self, token: int, logits: torch.Tensor) -> bool:
        """See `Continuation.take`."""
        goes_on = super().take(token, logits)
        is_end = token in self._ends
        if not is_end:
            if self._wanted.top is not None:
                self._chances.append(chance_of(token, logits, self._wanted.top))
            new = self._text.add(token)
        else:
            new = ""
        if not goes_on and not self._text.is_stopped:
            new += self._text.finish()
        reason: Reason | None = None
        if is_end or self._text.is_stopped:
            reason = "stop"
        elif not goes_on:
            reason = "length"
        if new or reason is not None:
            chances, self._chances = self._chances, []
            self.emit(Piece(new, chances, reason))
        return reason is None and not self.is_cancelled


def chance_of(token: int, logits: torch.Tensor, top: int) -> TokenChance:
    """A token's chance by logits `[vocabulary]`."""
    # What cannot be is -inf, for which JSON has no form; OpenAI's API says -9999.
    logprobs = logits.float().log_softmax(-1).clamp(min=-9999.0)
    best = logprobs.topk(min(top, len(logprobs))) if top else None
    likeliest = (
        [] if best is None else zip(best.indices.tolist(), best.values.tolist(), strict=True)
    )
    return TokenChance(token, float(logprobs[token]), tuple(likeliest))
