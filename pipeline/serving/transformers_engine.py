"""The engine: loads what is asked for, and answers until a signal ends it."""

import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

import uvicorn

from pipeline.serving.asked import Asked
from pipeline.serving.batching.models import Models, load_models
from pipeline.serving.batching.scheduler import Scheduler
from pipeline.serving.listening import listen, url_of
from pipeline.serving.protocol.app import build_app
from pipeline.serving.protocol.connections import BoundedConfig, allowed_connections
from pipeline.serving.protocol.guard import Guard


class _Server(uvicorn.Server):
    """uvicorn's server, which takes no request any more from the first signal on."""

    def __init__(self, config: uvicorn.Config, scheduler: Scheduler) -> None:
        super().__init__(config)
        self._scheduler = scheduler

    def handle_exit(self, sig: int, frame: object) -> None:
        """As uvicorn calls it: what was taken is finished, within the time of the configuration."""
        self._scheduler.close()
        super().handle_exit(sig, frame)  # type: ignore[arg-type]


def serve(asked: Asked) -> None:
    """Load, listen, and answer until SIGTERM or Ctrl-C. Raises PipelineError for what is amiss."""
    listening = listen(asked.host, asked.port)
    with listening:
        # A thread that ends, and its threads of OpenMP with it, so that those of the thread that
        # answers are the only ones. Where the threads of all pools are more than the cores, libgomp
        # has each wait for the others asleep: a decoded token has some two hundred such waits, and
        # took half as long again.
        with ThreadPoolExecutor(1) as loading:
            models = loading.submit(load_models, asked).result()
        run(models, asked, listening)


def run(models: Models, asked: Asked, listening: socket.socket) -> None:
    """Answer on a socket that listens, until a signal ends it."""
    limits = asked.params.serving
    scheduler = Scheduler(
        models.frozen_model, limits.max_running, limits.max_waiting, limits.max_cache_tokens
    )
    config = BoundedConfig(
        Guard(build_app(models, scheduler), asked.api_key),
        max_connections=allowed_connections(limits.max_connections),
        log_level="warning",
        lifespan="off",
        timeout_graceful_shutdown=int(limits.stop_seconds),
    )
    server = _Server(config, scheduler)
    scheduler.start()
    where = url_of(listening)
    print(f"serving {', '.join(models.models)} at {where}; Ctrl-C ends it", file=sys.stderr)
    # uvicorn raises a signal again when it has ended in peace, to whoever had it before.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    try:
        server.run(sockets=[listening])
    finally:
        scheduler.end(seconds=10)
    print("the server has ended", file=sys.stderr)
