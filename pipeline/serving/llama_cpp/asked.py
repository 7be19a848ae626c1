"""Requests as the proxy serves them: the shared ones, and where llama.cpp takes more or less."""

from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.serving.protocol.requests import ChatRequest, CompletionRequest, Request, Text, Token

_TokenId = Annotated[str, Field(pattern=r"^[0-9]+$")]  # JSON has keys of text alone


class _Asked(Request):
    n: Literal[1] | None = None
    logit_bias: dict[_TokenId, float] | None = None

    def settings(self, max_new_tokens: int) -> dict[str, Any]:
        """The entries of llama.cpp's `/completion`.

        Greedy where the request says nothing, as the evaluation is. Samplers are those that
        transformers' `generate` has here, in its order, and no other of llama.cpp's defaults.
        """
        settings: dict[str, Any] = {
            "n_predict": self.most_tokens or max_new_tokens,
            "temperature": self.temperature or 0.0,
            "top_p": 1.0 if self.top_p is None else self.top_p,
            "samplers": ["temperature", "top_p"],
            "stop": self.stops,
        }
        if self.ignore_eos:
            settings["ignore_eos"] = True
        if self.seed is not None:
            settings["seed"] = self.seed % 2**32
        if self.logit_bias:
            settings["logit_bias"] = [[int(id), bias] for id, bias in self.logit_bias.items()]
        if self.top is not None:
            settings["n_probs"] = max(self.top, 1)
        return settings


class AskedCompletion(_Asked, CompletionRequest):
    """`POST /v1/completions`: a text or its tokens, read as they are behind the prefix."""

    prompt: Text | Annotated[list[Token], Field(min_length=1)]


class AskedChat(_Asked, ChatRequest):
    """`POST /v1/chat/completions`: turns, rendered as those that the prefix was trained on."""
