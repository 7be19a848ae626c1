"""The application: OpenAI's completions, chat completions and models over one frozen model."""

import random
from collections.abc import Callable, Sequence

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response

from pipeline.inference.decoding import Decoding
from pipeline.serving.batching.choice import Choice, Wanted
from pipeline.serving.batching.models import Model, Models
from pipeline.serving.batching.scheduler import Scheduler
from pipeline.serving.protocol.answers import Form
from pipeline.serving.protocol.exchange import Emit, Exchange
from pipeline.serving.protocol.listing import Listing
from pipeline.serving.protocol.metrics import Metrics
from pipeline.serving.protocol.request_errors import tell_errors
from pipeline.serving.protocol.requests import MOST_CHOICES, ChatRequest, CompletionRequest
from pipeline.serving.protocol.requests import Request as Asked
from pipeline.serving.refusals import Refusal, ending


def build_app(models: Models, scheduler: Scheduler) -> FastAPI:
    """The routes. The scheduler is started and ended by the caller."""
    # Pages that show the API load scripts from elsewhere; the schema is at /openapi.json.
    app = FastAPI(title="Trained prefixes", docs_url=None, redoc_url=None)
    metrics, listing = metrics_of(scheduler), Listing(models.models)
    tell_errors(app)

    @app.get("/health")
    async def health() -> Response:
        """Whether requests are taken."""
        if scheduler.is_closed or not scheduler.is_alive:
            return ending().response
        return JSONResponse({"status": "ok"})

    @app.get("/metrics")
    async def counted() -> Response:
        """Prometheus' text format."""
        return metrics.response

    @app.get("/v1/models")
    async def listed() -> Response:
        """Every model's name: a prefix each, and the frozen model alone."""
        return listing.all()

    @app.get("/v1/models/{name:path}")
    async def one(name: str) -> Response:
        """One of them."""
        return listing.one(name)

    async def answered(
        body: Asked, request: Request, is_chat: bool, prompts_of: Callable[[Model], list[list[int]]]
    ) -> Response:
        if scheduler.is_closed:
            raise ending()
        try:
            model = models.model(body.model)
            prompts = await run_in_threadpool(prompts_of, model)
            exchange = _exchange(body, request, is_chat, model, prompts)
        except Refusal as refusal:
            name = body.model if body.model in models.models else "unknown"
            metrics.requests.labels(name, str(refusal.status)).inc()
            raise
        if body.stream:
            return exchange.stream(body.wants_usage)
        return await exchange.whole()

    def _exchange(
        body: Asked, request: Request, is_chat: bool, model: Model, prompts: Sequence[list[int]]
    ) -> Exchange:
        count = body.n or 1
        if len(prompts) * count > MOST_CHOICES:
            sentence = f"n: {count} answers to each of {len(prompts)} prompts are more than "
            raise Refusal(400, f"{sentence}{MOST_CHOICES} in one request", "n")
        most = body.most_tokens or models.max_new_tokens
        for prompt in prompts:
            models.refuse_too_long(model, prompt, most, scheduler.max_cache_tokens)
        wanted = Wanted(body.stops, body.top, body.ignore_eos)
        seed = random.getrandbits(63) if body.seed is None else body.seed
        form = Form(body.model, models.spell, is_chat, body.top is not None)

        def make(emits: Sequence[Emit]) -> list[Choice]:
            return [
                models.choice(
                    model,
                    prompts[index // count],
                    _decoding(body, most, seed + index % count),
                    wanted,
                    emit,
                )
                for index, emit in enumerate(emits)
            ]

        return Exchange(scheduler, metrics, form, request, len(prompts) * count, make)

    @app.post("/v1/completions")
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Texts that go on from prompts, read as they are behind the prefix."""

        def prompts(model: Model) -> list[list[int]]:
            return [models.prompt_of_text(model, each) for each in body.prompts]

        return await answered(body, request, False, prompts)

    @app.post("/v1/chat/completions")
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        """The assistant's next turn."""

        def prompts(model: Model) -> list[list[int]]:
            return [models.prompt_of_turns(model, body.turns)]

        return await answered(body, request, True, prompts)

    return app


def metrics_of(scheduler: Scheduler) -> Metrics:
    """What is counted, of the scheduler too."""
    return Metrics(
        {
            "serve_running": (
                "Answers that are computed together.",
                lambda: scheduler.running,
            ),
            "serve_waiting": ("Answers that wait.", lambda: scheduler.waiting),
            "serve_cache_tokens": (
                "Tokens that there is room for in the caches of all answers.",
                lambda: scheduler.cached_tokens,
            ),
        },
        {
            "serve_prompt_tokens": (
                "Tokens of inputs that were read.",
                lambda: scheduler.read_tokens,
            ),
            "serve_generated_tokens": (
                "Tokens of answers that were chosen.",
                lambda: scheduler.generated_tokens,
            ),
        },
    )


def _decoding(body: Asked, most: int, seed: int) -> Decoding:
    # torch takes seeds of 64 bits, and negative ones as what they are in them.
    top_p = 1.0 if body.top_p is None else body.top_p
    return Decoding(most, body.temperature or 0.0, top_p, seed % 2**64)
