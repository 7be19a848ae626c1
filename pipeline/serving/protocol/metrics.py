"""What the server counts, in the form of Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from pipeline.serving.batching.scheduler import Scheduler

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """Requests by model and status, how long they took, and what the scheduler is at."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "serve_requests",
            "Requests that were answered.",
            ["model", "status"],
            registry=self._registry,
        )
        self.seconds = Histogram(
            "serve_request_seconds",
            "From a request to the end of its answer.",
            registry=self._registry,
            buckets=_SECONDS,
        )
        self.first_seconds = Histogram(
            "serve_first_text_seconds",
            "From a request to the first text of its answer.",
            registry=self._registry,
            buckets=_SECONDS,
        )
        for name, told, value in (
            ("serve_running", "Answers that are computed together.", lambda: scheduler.running),
            ("serve_waiting", "Answers that wait.", lambda: scheduler.waiting),
            (
                "serve_cache_tokens",
                "Tokens that there is room for in the caches of all answers.",
                lambda: scheduler.cached_tokens,
            ),
        ):
            Gauge(name, told, registry=self._registry).set_function(value)
        self._registry.register(_Tokens(scheduler))

    def text(self) -> bytes:
        """All of it in the text format."""
        return generate_latest(self._registry)


class _Tokens(Collector):
    """The scheduler's own counts."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def collect(self):  # type: ignore[no-untyped-def]
        """As prometheus_client asks for it."""
        for name, told, value in (
            (
                "serve_prompt_tokens",
                "Tokens of inputs that were read.",
                self._scheduler.read_tokens,
            ),
            (
                "serve_generated_tokens",
                "Tokens of answers that were chosen.",
                self._scheduler.generated_tokens,
            ),
        ):
            yield CounterMetricFamily(name, told, value=value)
