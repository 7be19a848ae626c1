"""What a server counts, in the form of Prometheus."""

import time
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector
from starlette.responses import Response

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)

Read = Callable[[], float]
"""What a number is at the moment."""


class Metrics:
    """Requests by model and status, how long they took, and what the engine itself counts.

    Args:
        gauges: what it tells of the moment, by names: a sentence and the number.
        counters: what it has counted since its start, likewise.
    """

    def __init__(
        self, gauges: Mapping[str, tuple[str, Read]], counters: Mapping[str, tuple[str, Read]]
    ) -> None:
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
        for name, (told, read) in gauges.items():
            Gauge(name, told, registry=self._registry).set_function(read)
        self._registry.register(_Counted(counters))

    @property
    def response(self) -> Response:
        """All of it in the text format."""
        content = generate_latest(self._registry)
        return Response(content, media_type="text/plain; version=0.0.4; charset=utf-8")


class Counting:
    """One request, from now on: its first text, and its end, each counted once."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._metrics, self._model = metrics, model
        self._began = time.perf_counter()
        self._has_begun = self._has_ended = False

    def first(self) -> None:
        """Its first text is there."""
        if not self._has_begun:
            self._has_begun = True
            self._metrics.first_seconds.observe(time.perf_counter() - self._began)

    def end(self, status: str) -> None:
        """It is answered: the status, or `gone` where nobody waited for it."""
        if not self._has_ended:
            self._has_ended = True
            self._metrics.requests.labels(self._model, status).inc()
            self._metrics.seconds.observe(time.perf_counter() - self._began)


class _Counted(Collector):
    """Counters that others keep."""

    def __init__(self, counters: Mapping[str, tuple[str, Read]]) -> None:
        self._counters = counters

    def collect(self) -> Iterator[CounterMetricFamily]:
        """As prometheus_client asks for it."""
        for name, (told, read) in self._counters.items():
            yield CounterMetricFamily(name, told, value=read())
