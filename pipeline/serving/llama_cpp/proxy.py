"""OpenAI's endpoints in front of a llama.cpp server, a model's name for each prefix."""

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
from pipeline.serving.llama_cpp.asked import AskedChat, AskedCompletion
from pipeline.serving.llama_cpp.prompts import Prompts
from pipeline.serving.llama_cpp.slots import ServedPrefix, Slots
from pipeline.serving.llama_cpp.told import Telling
from pipeline.serving.protocol.events import DONE, event_of
from pipeline.serving.protocol.guard import Guard
from pipeline.serving.protocol.request_errors import refusal_of, tell_errors
from pipeline.serving.refusals import Refusal, unknown_model

# No bound on how long a slow machine computes; one on how long a server takes to be reached.
_TIMEOUT = httpx2.Timeout(None, connect=10.0)


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
        self._max_new_tokens = max_new_tokens
        self.slots: Slots | None = None
        app = Starlette(
            routes=[
                Route("/health", self._health),
                Route("/v1/models", self._models),
                Route("/v1/completions", self._completions, methods=["POST"]),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
            ],
            lifespan=self._living,
        )
        tell_errors(app)
        self.app = Guard(app, api_key)

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
        asked = _parsed(await request.body(), kind)
        if asked.model not in self._prefixes:
            raise unknown_model(asked.model)
        prefix = self._prefixes[asked.model]
        prompt = self._prompt(asked, prefix)
        assert self.slots is not None
        telling = Telling(asked.model, kind is AskedChat, len(prompt), asked.top)
        settings = asked.settings(self._max_new_tokens)
        ends = set() if asked.ignore_eos else self._prompts.ends
        chunks = _told(telling, ends, self.slots.answer(prefix, prompt, settings))
        if asked.stream:
            # Before the status line is sent the prefix is there, or an error takes its place.
            begun = await anext(chunks, None)
            events = _events(asked.wants_usage, telling, begun, chunks)
            return StreamingResponse(events, media_type="text/event-stream")
        async for _ in chunks:
            pass
        return JSONResponse(telling.whole())

    def _prompt(self, asked: AskedChat | AskedCompletion, prefix: ServedPrefix) -> list[int]:
        try:
            prompt = self._prompts.tokens(asked, prefix.begins_text)
        except PipelineError as error:
            raise Refusal(400, str(error), code="invalid_input") from error
        new = asked.most_tokens or self._max_new_tokens
        before = len(prefix.placeholders)
        if before + len(prompt) + new > self._context:
            message = (
                f"the input has {len(prompt)} tokens and the answer up to {new}, which after a "
                f"prefix of {before} are more than a slot's {self._context} positions; shorten the "
                "input, or lower max_tokens"
            )
            raise Refusal(400, message, code="context_length_exceeded")
        return prompt


def _parsed(
    body: bytes, kind: type[AskedChat] | type[AskedCompletion]
) -> AskedChat | AskedCompletion:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise refusal_of(error.errors()) from error


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
    wants_usage: bool,
    telling: Telling,
    begun: dict[str, Any] | None,
    chunks: AsyncGenerator[dict[str, Any], None],
) -> AsyncIterator[str]:
    """The answer as server-sent events."""
    async with aclosing(chunks):
        if telling.is_chat:
            yield event_of(telling.first())
        if begun is not None:
            yield event_of(begun)
        try:
            async for chunk in chunks:
                yield event_of(chunk)
        except Refusal as error:
            yield event_of(error.body)
            return
        yield event_of(telling.last())
        if wants_usage:
            yield event_of(telling.usage_chunk())
        yield DONE
