"""Requests of OpenAI's completions and chat completions, as far as the proxy serves them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

_MOST_TOP = 20
"""Tokens whose log-probabilities a request may ask for, as OpenAI has it."""


class _StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")
    include_usage: bool = False
    include_obfuscation: bool = False


class Asked(BaseModel):
    """What both kinds of request have. Keys that are not served are refused, not left out."""

    model_config = ConfigDict(extra="forbid")

    model: str
    stream: bool = False
    stream_options: _StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    logit_bias: dict[int, float] | None = None
    n: Literal[1] | None = None
    ignore_eos: bool = False
    # Both would count the placeholders as words that were said.
    presence_penalty: Literal[0] | None = None
    frequency_penalty: Literal[0] | None = None
    # Of whom and for what a request is: nothing of the answer depends on it.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @property
    def most_tokens(self) -> int | None:
        """The longest answer; None where the request leaves it open."""
        return self.max_tokens

    @property
    def top(self) -> int | None:
        """How many tokens' log-probabilities are told at each place; None for none at all."""
        return None

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
            "stop": [self.stop] if isinstance(self.stop, str) else self.stop or [],
        }
        if self.ignore_eos:
            settings["ignore_eos"] = True
        if self.seed is not None:
            settings["seed"] = self.seed % 2**32
        if self.logit_bias:
            settings["logit_bias"] = [list(pair) for pair in self.logit_bias.items()]
        if self.top is not None:
            settings["n_probs"] = max(self.top, 1)
        return settings


class AskedCompletion(Asked):
    """`POST /v1/completions`: a text or its tokens, read as they are behind the prefix."""

    prompt: str | list[int]
    logprobs: Annotated[int, Field(ge=0, le=_MOST_TOP)] | None = None
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None

    @property
    def top(self) -> int | None:
        return self.logprobs


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["text"]
    text: str


class Message(BaseModel):
    """A turn; of its content's parts those of text are served."""

    model_config = ConfigDict(extra="forbid")
    role: str
    content: str | list[_Part]
    name: str | None = None

    @property
    def text(self) -> str:
        """The content as one text."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class AskedChat(Asked):
    """`POST /v1/chat/completions`: turns, rendered as those that the prefix was trained on."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=_MOST_TOP)] | None = None

    @property
    def most_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def top(self) -> int | None:
        return self.top_logprobs or 0 if self.logprobs else None
