"""A server over a tiny model with four prefixes and none, in a thread of this process."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import uvicorn
from openai import AsyncOpenAI, OpenAI

from pipeline.config.task import TaskParams
from pipeline.inference.decoding import Decoding
from pipeline.inference.generator import TextGenerator
from pipeline.prefix import KVPrefix, PrefixConfig, PrefixModel, random_kv_prefix
from pipeline.prefix.packed.running import Stem
from pipeline.serving.batching.models import Model, Models
from pipeline.serving.batching.scheduler import Scheduler
from pipeline.serving.protocol.app import build_app
from pipeline.serving.protocol.connections import BoundedConfig
from pipeline.serving.protocol.guard import Guard
from tests.conftest import tiny_model, tiny_tokenizer

LENGTHS = {"bare": 0, "one": 1, "three": 3, "five": 5, "long": 70}
"""The served models, by the lengths of their prefixes."""
TASK = TaskParams(input_template="{{ x }}", target_template="{{ y }}", use_chat_template=True)


@dataclass
class Served:
    """A server that answers, and what it is made of."""

    models: Models
    scheduler: Scheduler
    server: uvicorn.Server
    url: str

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self.server.server_state.connections)

    def client(self, **settings: Any) -> OpenAI:
        """The official client, which tries nothing twice."""
        return OpenAI(
            **{"base_url": f"{self.url}/v1", "api_key": "none", "max_retries": 0, **settings}
        )

    def async_client(self) -> AsyncOpenAI:
        """The same for many requests at once, which connect as fast as a busy machine lets them."""
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=300)

    def alone(self, name: str, text: str, decoding: Decoding) -> str:
        """What transformers' own `generate` answers with a model's prefix, in one row."""
        return alone(self.models, name, text, decoding)


def alone(models: Models, name: str, text: str, decoding: Decoding) -> str:
    """See `Served.alone`; a conversation of one turn."""
    kv = models.models[name].stem.prefix
    config = None if kv is None else PrefixConfig(len(kv))
    model = PrefixModel(models.frozen_model, config)
    if kv is not None:
        model.load_kv_prefix(kv)
    generator = TextGenerator(model, tiny_tokenizer(), TASK)
    prompt = generator.prompt_ids(text)
    return generator.text_of(generator._generated(prompt, decoding, None))


def tiny_models(head_dim: int = 16, **settings: Any) -> Models:
    """The models of `LENGTHS`; heads of 16 numbers are those that the CPU's kernel takes."""
    frozen = tiny_model(head_dim=head_dim)
    shapes = PrefixModel(frozen, PrefixConfig(1)).kv_shapes
    draw = torch.Generator().manual_seed(0)
    models = {}
    for name, length in LENGTHS.items():
        kv: KVPrefix | None = None
        if length:
            kv = random_kv_prefix(shapes, length, 2.0, draw)
        models[name] = Model(Stem(kv))
    return Models(frozen, tiny_tokenizer(), TASK, models, **{"max_new_tokens": 8, **settings})


@contextmanager
def served(
    models: Models,
    api_key: str | None = None,
    patience: float = 30.0,
    max_connections: int = 1024,
    **limits: int,
) -> Iterator[Served]:
    """Serve on a free port; in the end nothing runs any more."""
    bounds = {"max_running": 32, "max_waiting": 256, "max_cache_tokens": 65536, **limits}
    scheduler = Scheduler(models.frozen_model, **bounds)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        app = Guard(build_app(models, scheduler), api_key, patience)
        config = BoundedConfig(
            app,
            max_connections=max_connections,
            patience=patience,
            log_level="error",
            lifespan="off",
            timeout_graceful_shutdown=5,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],))
        scheduler.start()
        thread.start()
        try:
            url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            yield Served(models, scheduler, server, url)
        finally:
            server.should_exit = True
            thread.join(20)
            scheduler.end(20)
            assert not thread.is_alive()
            assert not scheduler.is_alive


def until(condition: Callable[[], bool]) -> None:
    """Wait for what other threads bring about: a row leaves just after its answer has."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
