"""OpenAI's endpoints in front of a llama.cpp server, a model's name for each prefix."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx2
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from pipeline.serving.llama_cpp.asked import AskedChat, AskedCompletion
from pipeline.serving.llama_cpp.slots import ServedPrefix, Slots
from pipeline.serving.llama_cpp.told import Telling
from pipeline.serving.prompts import Prompts
from pipeline.serving.protocol.departure import GoneError, while_there
from pipeline.serving.protocol.events import DONE, event_of
from pipeline.serving.protocol.guard import Guard
from pipeline.serving.protocol.listing import Listing
from pipeline.serving.protocol.metrics import Counting, Metrics
from pipeline.serving.protocol.request_errors import refusal_of, tell_errors
from pipeline.serving.refusals import Refusal, unknown_model

# No bound on how long a slow machine computes; one on how long a server takes to be reached.
_TIMEOUT = httpx2.Timeout(None, connect=10.0)
# A connection that waits for its next request may be closed by the server just when it comes.
_LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=0)


class Proxy:
    """The endpoints: models, completions, chat completions, /health and /metrics.

    Args:
        url: the server's address.
        slots: how many slots it has.
        context: positions of each.
        prefixes: those in its state folder, by name.
        prompts: what makes an input's tokens.
        max_new_tokens: the longest answer where a request leaves it open.
        max_waiting: requests that wait for a slot at the most; more are refused.
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
        max_waiting: int,
        api_key: str | None = None,
    ) -> None:
        self._context, self._max_new_tokens = context, max_new_tokens
        self._prefixes, self._prompts = prefixes, prompts
        self._client = httpx2.AsyncClient(base_url=url, timeout=_TIMEOUT, limits=_LIMITS)
        self.slots = Slots(self._client, slots, max_waiting)
        self.metrics = _metrics_of(self.slots)
        self._listing = Listing(prefixes)
        app = Starlette(
            routes=[
                Route("/health", self._health),
                Route("/metrics", self._counted),
                Route("/v1/models", self._models),
                Route("/v1/models/{name:path}", self._model),
                Route("/v1/completions", self._completions, methods=["POST"]),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
            ],
            lifespan=self._living,
        )
        tell_errors(app)
        self.app = Guard(app, api_key)

    @asynccontextmanager
    async def _living(self, app: Starlette) -> AsyncIterator[None]:
        async with self._client:
            yield

    async def _health(self, request: Request) -> Response:
        told = {"status": "ok", "slots": self.slots.count, "mended": self.slots.mended}
        return JSONResponse(told)

    async def _counted(self, request: Request) -> Response:
        return self.metrics.response

    async def _models(self, request: Request) -> Response:
        return self._listing.all()

    async def _model(self, request: Request) -> Response:
        return self._listing.one(request.path_params["name"])

    async def _completions(self, request: Request) -> Response:
        return await self._answered(request, AskedCompletion)

    async def _chat(self, request: Request) -> Response:
        return await self._answered(request, AskedChat)

    async def _answered(
        self, request: Request, kind: type[AskedChat] | type[AskedCompletion]
    ) -> Response:
        asked = _parsed(await request.body(), kind)
        name = asked.model if asked.model in self._prefixes else "unknown"
        counting = Counting(self.metrics, name)
        try:
            return await self._answer(request, asked, counting)
        except Refusal as refusal:
            counting.end(str(refusal.status))
            raise
        except GoneError:
            counting.end("gone")
            return Response(status_code=499)

    async def _answer(
        self, request: Request, asked: AskedChat | AskedCompletion, counting: Counting
    ) -> Response:
        if asked.model not in self._prefixes:
            raise unknown_model(asked.model)
        prefix = self._prefixes[asked.model]
        # A long text takes seconds, in which others are answered.
        prompt = await run_in_threadpool(self._prompt, asked, prefix)
        telling = Telling(asked.model, isinstance(asked, AskedChat), len(prompt), asked.top)
        settings = asked.settings(self._max_new_tokens)
        ends = set() if asked.ignore_eos else {self._prompts.end}
        chunks = _told(telling, ends, self.slots.answer(prefix, prompt, settings), counting)
        if asked.stream:
            # Before the status line is sent the prefix is there, or an error takes its place.
            begun = await while_there(request, anext(chunks, None))
            events = _events(asked.wants_usage, telling, begun, chunks, counting)
            return StreamingResponse(events, media_type="text/event-stream")
        await while_there(request, _all_of(chunks))
        counting.end("200")
        return JSONResponse(telling.whole())

    def _prompt(self, asked: AskedChat | AskedCompletion, prefix: ServedPrefix) -> list[int]:
        if isinstance(asked, AskedChat):
            prompt = self._prompts.of_turns(asked.turns, prefix.begins_text)
        else:
            prompt = self._prompts.of_text(asked.prompt, prefix.begins_text)
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
    telling: Telling,
    ends: set[int],
    chunks: AsyncGenerator[dict[str, Any], None],
    counting: Counting,
) -> AsyncGenerator[dict[str, Any], None]:
    """The chunks of an answer as ours, up to an end that the GGUF file does not name."""
    async with aclosing(chunks):
        async for chunk in chunks:
            counting.first()
            if ends.intersection(chunk.get("tokens", ())):
                return
            yield telling.add(chunk)


async def _all_of(chunks: AsyncGenerator[dict[str, Any], None]) -> None:
    async with aclosing(chunks):
        async for _ in chunks:
            pass


async def _events(
    wants_usage: bool,
    telling: Telling,
    begun: dict[str, Any] | None,
    chunks: AsyncGenerator[dict[str, Any], None],
    counting: Counting,
) -> AsyncIterator[str]:
    """The answer as server-sent events."""
    status = "gone"
    try:
        async with aclosing(chunks):
            if telling.is_chat:
                yield event_of(telling.first())
            if begun is not None:
                yield event_of(begun)
            async for chunk in chunks:
                yield event_of(chunk)
            yield event_of(telling.last())
            if wants_usage:
                yield event_of(telling.usage_chunk())
            yield DONE
            status = "200"
    except Refusal as error:
        status = str(error.status)
        yield event_of(error.body)
    finally:
        counting.end(status)


def _metrics_of(slots: Slots) -> Metrics:
    return Metrics(
        {
            "serve_running": ("Answers that are computed, a slot each.", lambda: slots.running),
            "serve_waiting": ("Answers that wait for a slot.", lambda: slots.waiting),
        },
        {
            "serve_prompt_tokens": ("Tokens of inputs that were read.", lambda: slots.read_tokens),
            "serve_generated_tokens": (
                "Tokens of answers that were chosen.",
                lambda: slots.generated_tokens,
            ),
            "serve_mended": (
                "Prefixes that were lost, and restored before an answer left.",
                lambda: slots.mended,
            ),
        },
    )
