"""Trained prefixes served over HTTP by llama.cpp, whose server is ours or runs already."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import uvicorn

from pipeline.models.tokenizer import load_tokenizer
from pipeline.serving.asked import Asked
from pipeline.serving.listening import listen, url_of
from pipeline.serving.llama_cpp.launching import running
from pipeline.serving.llama_cpp.placeholders import ordinary_tokens
from pipeline.serving.llama_cpp.prefixes import chosen_prefixes, load_frozen
from pipeline.serving.llama_cpp.proxy import Proxy
from pipeline.serving.llama_cpp.refusals import refuse_beyond_context
from pipeline.serving.llama_cpp.server import LlamaServer
from pipeline.serving.llama_cpp.slots import ServedPrefix
from pipeline.serving.llama_cpp.verification import verify
from pipeline.serving.llama_cpp.writing import write_state
from pipeline.serving.prompts import Prompts
from pipeline.serving.protocol.connections import BoundedConfig, allowed_connections
from pipeline.workspace import paths


def serve_llama_cpp(asked: Asked, told: Callable[[str], None]) -> None:
    """Serve prefixes until a signal ends it.

    Args:
        asked: whose params say which server of llama.cpp's (`serving.llama_cpp`).
        told: what is said to a person.

    Raises:
        PipelineError: for what cannot be served, before a request is taken.
        PrefixError: for prefixes that are missing or do not fit.
    """
    stop_seconds = int(asked.params.serving.stop_seconds)
    with (
        _ended_by_signals(),
        listen(asked.host, asked.port) as listening,
        running(asked.params) as server,
    ):
        proxy = prepare(asked, server, told)
        config = BoundedConfig(
            proxy.app,
            max_connections=allowed_connections(asked.params.serving.max_connections),
            log_level="warning",
            timeout_graceful_shutdown=stop_seconds,
        )
        names = ", ".join([asked.model_name, *asked.prefixes])
        told(f"serving {names} at {url_of(listening)}; Ctrl-C ends it")
        # uvicorn raises a signal again when it has ended in peace.
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])
    told("the server has ended")


def prepare(asked: Asked, server: LlamaServer, told: Callable[[str], None]) -> Proxy:
    """Verify a server, write the state files of prefixes for it, and make the proxy before it.

    Raises PipelineError or PrefixError as `serve_llama_cpp`.
    """
    params = asked.params
    frozen = load_frozen(params)
    tokenizer = load_tokenizer(paths.MODEL)
    ordinary = ordinary_tokens(tokenizer)
    chosen = chosen_prefixes(params, asked.prefixes, frozen, ordinary)
    slots, context = server.slots()
    for each in chosen:
        refuse_beyond_context(each.name, len(each.kv), context)
    verified = verify(server, frozen, ordinary)
    told(verified.sentence)
    asked.checked(verified.sentence)
    served = {asked.model_name: ServedPrefix(asked.model_name)}
    for each in chosen:
        file = f"{each.sha256[:16]}.bin"
        size = write_state(each.kv, server.state_folder / file, each.placeholders, verified)
        served[each.name] = ServedPrefix(each.name, file, each.placeholders, each.kv.begins_text)
        told(f"model {each.name}: {len(each.kv)} virtual tokens, {size / 2**20:.1f} MiB")
    return Proxy(
        server.url,
        slots,
        context,
        served,
        Prompts(params.task, tokenizer, len(tokenizer)),
        params.evaluate.max_new_tokens,
        params.serving.max_waiting,
        asked.api_key,
    )


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let each signal that ends a process end it as Ctrl-C does, so that the engine is ended too.

    uvicorn raises a signal again when it has ended, to whoever had it before.
    """
    ending = {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}
    # Under nohup a closed terminal ends nothing.
    before = {number: signal.getsignal(number) for number in ending}
    for number, handler in before.items():
        if handler is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
