"""Trained prefixes served over HTTP by llama.cpp, whose server is ours or runs already."""

import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from pipeline.config import Params
from pipeline.errors import PipelineError
from pipeline.models.tokenizer import load_tokenizer
from pipeline.serving.llama_cpp.gguf import gguf_file
from pipeline.serving.llama_cpp.launching import ServerOptions, started
from pipeline.serving.llama_cpp.placeholders import ordinary_tokens
from pipeline.serving.llama_cpp.prefixes import chosen_prefixes, load_frozen
from pipeline.serving.llama_cpp.prompts import Prompts
from pipeline.serving.llama_cpp.proxy import Proxy
from pipeline.serving.llama_cpp.refusals import refuse_beyond_context, refuse_cache_type
from pipeline.serving.llama_cpp.server import LlamaServer
from pipeline.serving.llama_cpp.slots import ServedPrefix
from pipeline.serving.llama_cpp.verification import verify
from pipeline.serving.llama_cpp.writing import write_state
from pipeline.workspace import paths

NO_PREFIX = "no_prefix"
"""What requests call the frozen model alone where nothing else is said."""


@dataclass(frozen=True)
class Door:
    """Where requests are taken, and whose.

    Attributes:
        host: the address that is listened at.
        port: its port; 0 for a free one.
        api_key: what every request has to bring; None for none.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None


def serve_llama_cpp(
    params: Params,
    prefixes: Mapping[str, str | Path],
    server: LlamaServer | Path | None,
    options: ServerOptions,
    told: Callable[[str], None],
    door: Door,
    model_name: str = NO_PREFIX,
) -> None:
    """Serve prefixes until a signal ends it.

    Args:
        params: of the project whose prefixes they are.
        prefixes: as of `chosen_prefixes`, by the names of models.
        server: one that runs, or a GGUF file for one of our own; None for the file that
            `model.source: wheel` names.
        options: of our own server.
        told: what is said to a person.
        door: where, and to whom.
        model_name: what the frozen model alone is called.

    Raises:
        PipelineError: for what cannot be served, before anything is listened at.
        PrefixError: for prefixes that are missing or do not fit.
    """
    refuse_cache_type(options.cache_type)
    with (
        _ended_by_signals(),
        _listening(door.host, door.port) as listening,
        _running(params, server, options) as running,
    ):
        proxy = prepare(params, prefixes, running, told, model_name, door.api_key)
        address, at = listening.getsockname()[:2]
        shown = f"[{address}]" if ":" in address else address
        told(f"serving at http://{shown}:{at}/v1")
        config = uvicorn.Config(proxy.app, log_level="warning", timeout_graceful_shutdown=5)
        uvicorn.Server(config).run(sockets=[listening])


def prepare(
    params: Params,
    prefixes: Mapping[str, str | Path],
    server: LlamaServer,
    told: Callable[[str], None],
    model_name: str = NO_PREFIX,
    api_key: str | None = None,
) -> Proxy:
    """Verify a server, write the state files of prefixes for it, and make the proxy before it.

    Raises PipelineError or PrefixError as `serve_llama_cpp`.
    """
    frozen = load_frozen(params)
    tokenizer = load_tokenizer(paths.MODEL)
    ordinary = ordinary_tokens(tokenizer)
    chosen = chosen_prefixes(params, prefixes, frozen, ordinary)
    slots, context = server.slots()
    for each in chosen:
        refuse_beyond_context(each.name, len(each.kv), context)
    verified = verify(server, frozen, ordinary)
    told(verified.sentence)
    served = {}
    for each in chosen:
        file = f"{each.sha256[:16]}.bin"
        size = write_state(each.kv, server.state_folder / file, each.placeholders, verified)
        served[each.name] = ServedPrefix(each.name, file, each.placeholders, each.kv.begins_text)
        told(f"model {each.name}: {len(each.kv)} virtual tokens, {size / 2**20:.1f} MiB")
    served.setdefault(model_name, ServedPrefix(model_name))
    prompts = Prompts(params.task, tokenizer)
    most = params.evaluate.max_new_tokens
    return Proxy(server.url, slots, context, served, prompts, most, api_key)


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


@contextmanager
def _running(
    params: Params, server: LlamaServer | Path | None, options: ServerOptions
) -> Iterator[LlamaServer]:
    if isinstance(server, LlamaServer):
        yield server
        return
    with gguf_file(params.model, server) as gguf, started(gguf, options) as own:
        yield own


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise PipelineError(
            f"--port: {host}:{port} cannot be listened at ({error.strerror}); name another"
        ) from error
    with listening:
        yield listening
