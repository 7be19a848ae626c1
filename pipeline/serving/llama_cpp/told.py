"""Answers in OpenAI's form: completions and chat completions, whole and in chunks."""

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

_REASONS = {"eos": "stop", "word": "stop", "limit": "length"}


@dataclass
class Telling:
    """One answer, told as llama.cpp's chunks come.

    Attributes:
        model: the name that the request gave.
        is_chat: whether it is told as a chat's.
        prompt_tokens: tokens of the input, the prefix not counted.
        top: how many log-probabilities are told at each place; None for none.
    """

    model: str
    is_chat: bool
    prompt_tokens: int
    top: int | None = None
    finish_reason: str = "stop"
    tokens: int = 0
    _id: str = field(default_factory=lambda: uuid.uuid4().hex)
    _created: int = field(default_factory=lambda: int(time.time()))
    _text: str = ""
    _probabilities: list[Json] = field(default_factory=list)

    def add(self, chunk: Mapping[str, Any]) -> Json:
        """A chunk of the server's as one of ours; kept for `whole` too."""
        text = str(chunk.get("content", ""))
        found = list(chunk.get("completion_probabilities", ()))
        self._text += text
        self._probabilities += found
        self.tokens = int(chunk.get("tokens_predicted", self.tokens))
        if chunk.get("stop"):
            self.finish_reason = _REASONS.get(str(chunk.get("stop_type")), "stop")
        return self._chunk(text, found, None)

    def first(self) -> Json:
        """What a chat's stream begins with: whose turn it is."""
        chunk = self._chunk("", [], None)
        chunk["choices"][0]["delta"]["role"] = "assistant"
        return chunk

    def last(self) -> Json:
        """What a stream ends with: why the answer ends."""
        return self._chunk("", [], self.finish_reason)

    def usage_chunk(self) -> Json:
        """What a stream that asked for usage has behind its last choice."""
        return self._envelope(True) | {"choices": [], "usage": self._usage()}

    def whole(self) -> Json:
        """The answer at once."""
        choice: Json = {"index": 0, "finish_reason": self.finish_reason}
        choice |= {"logprobs": self._logprobs(self._probabilities)}
        if self.is_chat:
            choice["message"] = {"role": "assistant", "content": self._text, "refusal": None}
        else:
            choice["text"] = self._text
        return self._envelope(False) | {"choices": [choice], "usage": self._usage()}

    def _chunk(self, text: str, found: list[Json], reason: str | None) -> Json:
        choice: Json = {"index": 0, "finish_reason": reason, "logprobs": self._logprobs(found)}
        if self.is_chat:
            choice["delta"] = {"content": text} if reason is None else {}
        else:
            choice["text"] = text
        return self._envelope(True) | {"choices": [choice]}

    def _envelope(self, is_chunk: bool) -> Json:
        kind = "text_completion"
        if self.is_chat:
            kind = "chat.completion.chunk" if is_chunk else "chat.completion"
        name = f"{'chatcmpl' if self.is_chat else 'cmpl'}-{self._id}"
        return {"id": name, "object": kind, "created": self._created, "model": self.model}

    def _usage(self) -> Json:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.tokens,
            "total_tokens": self.prompt_tokens + self.tokens,
        }

    def _logprobs(self, found: list[Json]) -> Json | None:
        if self.top is None:
            return None
        if self.is_chat:
            return {"content": [self._of_chat(token) for token in found], "refusal": None}
        return {
            "tokens": [token["token"] for token in found],
            "token_logprobs": [token["logprob"] for token in found],
            "top_logprobs": [
                {t["token"]: t["logprob"] for t in token["top_logprobs"][: self.top]}
                for token in found
            ],
        }

    def _of_chat(self, token: Json) -> Json:
        top = [_logprob(each) for each in token["top_logprobs"][: self.top]]
        return _logprob(token) | {"top_logprobs": top}


def _logprob(token: Json) -> Json:
    return {name: token[name] for name in ("token", "logprob", "bytes")}
