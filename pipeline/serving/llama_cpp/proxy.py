"""OpenAI's endpoints in front of a llama.cpp server, a model's name for each prefix."""

import hmac
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx2
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from pipeline.errors import PipelineError
from pipeline.serving.llama_cpp.asked import Asked, AskedChat, AskedCompletion
from pipeline.serving.llama_cpp.prompts import Prompts, places
from pipeline.serving.llama_cpp.slots import EngineError, ServedPrefix, Slots
from pipeline.serving.llama_cpp.told import Telling, error_body

_INVALID = "invalid_request_error"
# No bound on how long a slow machine computes; one on how long a server takes to be reached.
_TIMEOUT = httpx2.Timeout(None, connect=10.0)


class _RefusedError(Exception):
    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__()
        self.response = JSONResponse(body, status)


class Proxy:
    """The endpoints: /v1/models, /v1/completions, /v1/chat/completions and /health.

    Args:
        url: the server's address.
        slots: how many slots it has.
        context: positions of each.
        prefixes: those in its state folder, by name.
        prompts: what makes an input's tokens.
        max_new_tokens: the longest answer where a request leaves it open.
        api_key: what every request but /health has to bring; None for none.
    """

    def __init__(
        self,
        url: str,
        slots: int,
        context: int,
        prefixes: Mapping[str, ServedPrefix],
        prompts: Prompts,
        max_new_tokens: int,
        api_key: str | None = None,
    ) -> None:
        self._url, self._count, self._context = url, slots, context
        self._prefixes, self._prompts = prefixes, prompts
        self._max_new_tokens, self._api_key = max_new_tokens, api_key
        self.slots: Slots | None = None
        self.app = Starlette(
            routes=[
                Route("/health", self._health),
                Route("/v1/models", self._models),
                Route("/v1/completions", self._completions, methods=["POST"]),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
            ],
            lifespan=self._living,
            exception_handlers={404: _not_found, 405: _not_found, 500: _failed},
        )

    @asynccontextmanager
    async def _living(self, app: Starlette) -> AsyncIterator[None]:
        async with httpx2.AsyncClient(base_url=self._url, timeout=_TIMEOUT) as client:
            self.slots = Slots(client, self._count)
            yield

    async def _health(self, request: Request) -> Response:
        assert self.slots is not None
        told = {"status": "ok", "slots": self._count, "mended": self.slots.mended}
        return JSONResponse(told)

    async def _models(self, request: Request) -> Response:
        if (refused := self._stranger(request)) is not None:
            return refused
        listed = [
            {"id": name, "object": "model", "created": 0, "owned_by": "prefix-tuning-pipeline"}
            for name in self._prefixes
        ]
        return JSONResponse({"object": "list", "data": listed})

    async def _completions(self, request: Request) -> Response:
        return await self._answered(request, AskedCompletion)

    async def _chat(self, request: Request) -> Response:
        return await self._answered(request, AskedChat)

    async def _answered(
        self, request: Request, kind: type[AskedChat] | type[AskedCompletion]
    ) -> Response:
        if (refused := self._stranger(request)) is not None:
            return refused
        try:
            asked = _parsed(await request.body(), kind)
            prefix = self._prefix(asked.model)
            prompt = self._prompt(asked, prefix)
        except _RefusedError as error:
            return error.response
        assert self.slots is not None
        telling = Telling(asked.model, kind is AskedChat, len(prompt), asked.top)
        settings = asked.settings(self._max_new_tokens)
        ends = set() if asked.ignore_eos else self._prompts.ends
        chunks = _told(telling, ends, self.slots.answer(prefix, prompt, settings))
        try:
            if asked.stream:
                # Before the status line is sent the prefix is there, or an error takes its place.
                begun = await anext(chunks, None)
                return StreamingResponse(
                    _events(asked, telling, begun, chunks), media_type="text/event-stream"
                )
            async for _ in chunks:
                pass
        except EngineError as error:
            return _of_engine(error)
        return JSONResponse(telling.whole())

    def _stranger(self, request: Request) -> Response | None:
        """What a client is told that lacks the key; None where it has it, or none is asked."""
        if self._api_key is None:
            return None
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and hmac.compare_digest(
            given.strip().encode(), self._api_key.encode()
        ):
            return None
        message = "send the server's key as `Authorization: Bearer KEY`"
        return JSONResponse(error_body(message, _INVALID, "invalid_api_key"), 401)

    def _prefix(self, name: str) -> ServedPrefix:
        if name in self._prefixes:
            return self._prefixes[name]
        message = f"model: there is no '{name}'; it is one of {', '.join(self._prefixes)}"
        raise _RefusedError(404, error_body(message, _INVALID, "model_not_found", "model"))

    def _prompt(self, asked: AskedChat | AskedCompletion, prefix: ServedPrefix) -> list[int]:
        try:
            prompt = self._prompts.tokens(asked, prefix.begins_text)
        except PipelineError as error:
            raise _RefusedError(400, error_body(str(error), _INVALID, "invalid_input")) from error
        new = asked.most_tokens or self._max_new_tokens
        before = len(prefix.placeholders)
        if before + len(prompt) + new > self._context:
            message = (
                f"the input has {len(prompt)} tokens and the answer up to {new}, which after a "
                f"prefix of {before} are more than a slot's {self._context} positions; shorten the "
                "input, or lower max_tokens"
            )
            raise _RefusedError(400, error_body(message, _INVALID, "context_length_exceeded"))
        return prompt


def _parsed(
    body: bytes, kind: type[AskedChat] | type[AskedCompletion]
) -> AskedChat | AskedCompletion:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = places(first["loc"])
        message = f"{where}: {first['msg']}" if where else str(first["msg"])
        if first["type"] == "extra_forbidden":
            message = f"{where}: is not served here; leave it out"
        told = error_body(message, _INVALID, "invalid_value", where or None)
        raise _RefusedError(400, told) from error


async def _told(
    telling: Telling, ends: set[int], chunks: AsyncGenerator[dict[str, Any], None]
) -> AsyncGenerator[dict[str, Any], None]:
    """The chunks of an answer as ours, up to an end that the GGUF file does not name."""
    async with aclosing(chunks):
        async for chunk in chunks:
            if ends.intersection(chunk.get("tokens", ())):
                return
            yield telling.add(chunk)


async def _events(
    asked: Asked,
    telling: Telling,
    begun: dict[str, Any] | None,
    chunks: AsyncGenerator[dict[str, Any], None],
) -> AsyncIterator[str]:
    """The answer as server-sent events."""
    async with aclosing(chunks):
        if telling.is_chat:
            yield _event(telling.first())
        if begun is not None:
            yield _event(begun)
        try:
            async for chunk in chunks:
                yield _event(chunk)
        except EngineError as error:
            yield _event(error_body(str(error), "server_error", error.code))
            return
        yield _event(telling.last())
        if asked.stream_options is not None and asked.stream_options.include_usage:
            yield _event(telling.usage_chunk())
        yield "data: [DONE]\n\n"


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def _of_engine(error: EngineError) -> Response:
    kind = _INVALID if error.status < 500 else "server_error"
    return JSONResponse(error_body(str(error), kind, error.code), error.status)


def _not_found(request: Request, error: Exception) -> Response:
    message = f"{request.method} {request.url.path}: is not served here"
    return JSONResponse(error_body(message, _INVALID, "not_found"), 404)


def _failed(request: Request, error: Exception) -> Response:
    return JSONResponse(error_body(type(error).__name__, "server_error", "internal"), 500)
