"""Requests of OpenAI's completions and chat completions, as far as they are served."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

MOST_TOP = 20
"""Tokens whose log-probabilities a request may ask for at each place, as OpenAI has it."""
MOST_CHOICES = 128
"""Answers that one request may ask for."""


def _whole(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("holds half a character, a surrogate without its other") from error
    return text


Text = Annotated[str, AfterValidator(_whole)]
Stop = Annotated[Text, Field(min_length=1, max_length=1000)]
Token = Annotated[int, Field(ge=0)]
Nothing = Annotated[float, Field(ge=0, le=0)]


class _Request(BaseModel):
    """Unknown keys and values of another type are refused, not left out."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(_Request):
    """What a stream tells besides its text."""

    include_usage: bool = False
    include_obfuscation: bool = False


class Request(_Request):
    """What both kinds of request have.

    Greedy where no temperature is given, as the evaluation is; OpenAI samples then.
    """

    model: Text
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    ignore_eos: bool = False
    presence_penalty: Nothing | None = None
    frequency_penalty: Nothing | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    # Of whom and for what a request is: nothing of the answer depends on it.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @property
    def stops(self) -> list[str]:
        """The strings before which an answer ends."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def most_tokens(self) -> int | None:
        """The longest answer; None where the request leaves it open."""
        return self.max_tokens

    @property
    def top(self) -> int | None:
        """How many tokens' log-probabilities are told at each place; None for none at all."""
        return None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with what it took."""
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionRequest(Request):
    """`POST /v1/completions`: texts or their tokens, read as they are behind the prefix."""

    prompt: (
        Text
        | Annotated[list[Token], Field(min_length=1)]
        | Annotated[list[Text], Field(min_length=1, max_length=MOST_CHOICES)]
        | Annotated[
            list[Annotated[list[Token], Field(min_length=1)]],
            Field(min_length=1, max_length=MOST_CHOICES),
        ]
    )
    logprobs: Annotated[int, Field(ge=0, le=MOST_TOP)] | None = None
    # Of the input there are no log-probabilities, and so no echo of it.
    echo: Literal[False] | None = None
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None
    suffix: Literal[""] | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """The inputs one by one."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        return [self.prompt] if isinstance(self.prompt[0], int) else self.prompt  # type: ignore[return-value]

    @property
    def top(self) -> int | None:
        return self.logprobs


class Part(_Request):
    """A part of a content; those of text are served."""

    type: Literal["text"]
    text: Text


class Message(_Request):
    """A turn. What else it has the chat template is given, too."""

    role: Annotated[Text, Field(min_length=1)]
    content: Text | list[Part] | None = None
    name: Text | None = None
    refusal: None = None

    @property
    def turn(self) -> dict[str, Any]:
        """As a chat template reads it."""
        parts = self.content if isinstance(self.content, list) else []
        text = self.content if isinstance(self.content, str) else "".join(p.text for p in parts)
        return {"role": self.role, "content": text}


class ResponseFormat(_Request):
    """Text alone."""

    type: Literal["text"]


class ChatRequest(Request):
    """`POST /v1/chat/completions`: turns, rendered as those that the prefix was trained on."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP)] | None = None
    response_format: ResponseFormat | None = None

    @property
    def turns(self) -> list[dict[str, Any]]:
        """The conversation as a chat template reads it."""
        return [message.turn for message in self.messages]

    @property
    def most_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def top(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None
