"""Answers in the form of OpenAI's API: what a choice has become, whole or piece by piece."""

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.serving.batching.choice import Piece, TokenChance

Spell = Callable[[int], str]
"""The text of a token alone."""


@dataclass(frozen=True)
class Form:
    """How answers to one request look: a completion's or a chat completion's."""

    model: str
    spell: Spell
    is_chat: bool
    has_logprobs: bool
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, choices: Sequence[Sequence[Piece]], usage: dict[str, int]) -> dict[str, Any]:
        """The answer of a request without a stream."""
        shown = [self._choice(index, pieces) for index, pieces in enumerate(choices)]
        kind = "chat.completion" if self.is_chat else "text_completion"
        return {**self._head(kind), "choices": shown, "usage": usage}

    def beginning(self, index: int) -> dict[str, Any] | None:
        """The chunk before a choice's text, which says who speaks; None for a completion."""
        if not self.is_chat:
            return None
        choice = {
            **{"index": index, "delta": {"role": "assistant", "content": ""}},
            **{"logprobs": None, "finish_reason": None},
        }
        return self.chunk([choice])

    def piece(self, index: int, piece: Piece, offset: int) -> dict[str, Any]:
        """A chunk; `offset` characters of its choice came before."""
        shown: dict[str, Any] = {"index": index}
        shown |= {"delta": {"content": piece.text}} if self.is_chat else {"text": piece.text}
        shown["logprobs"] = self._logprobs(piece.chances, offset)
        return self.chunk([{**shown, "finish_reason": piece.reason}])

    def chunk(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """A chunk of a stream."""
        kind = "chat.completion.chunk" if self.is_chat else "text_completion"
        return {**self._head(kind), "choices": choices, **more}

    def _head(self, kind: str) -> dict[str, Any]:
        name = "chatcmpl" if self.is_chat else "cmpl"
        about = {"id": f"{name}-{self.id}", "object": kind}
        return {**about, "created": self.created, "model": self.model}

    def _choice(self, index: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        text = "".join(piece.text for piece in pieces)
        chances = [chance for piece in pieces for chance in piece.chances]
        shown: dict[str, Any] = {"index": index}
        if self.is_chat:
            shown["message"] = {"role": "assistant", "content": text, "refusal": None}
        else:
            shown["text"] = text
        shown["logprobs"] = self._logprobs(chances, 0)
        return {**shown, "finish_reason": pieces[-1].reason}

    def _logprobs(self, chances: Sequence[TokenChance], offset: int) -> dict[str, Any] | None:
        if not self.has_logprobs:
            return None
        if self.is_chat:
            return {"content": [self._in_chat(chance) for chance in chances], "refusal": None}
        tokens = [self.spell(chance.token) for chance in chances]
        offsets = [offset]
        for token in tokens[:-1]:
            offsets.append(offsets[-1] + len(token))
        return {
            "tokens": tokens,
            "token_logprobs": [chance.logprob for chance in chances],
            "top_logprobs": [
                {self.spell(token): logprob for token, logprob in chance.top} for chance in chances
            ],
            "text_offset": offsets[: len(tokens)],
        }

    def _in_chat(self, chance: TokenChance) -> dict[str, Any]:
        top = [self._token(token, logprob) for token, logprob in chance.top]
        return {**self._token(chance.token, chance.logprob), "top_logprobs": top}

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        text = self.spell(token)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}
