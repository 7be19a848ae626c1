"""A llama.cpp server of our own, for as long as it is wanted: xllamacpp's, or `llama-server`."""

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import httpx2

from pipeline.config import Params
from pipeline.config.serving import LlamaCppParams
from pipeline.errors import PipelineError
from pipeline.serving.llama_cpp.gguf import gguf_file
from pipeline.serving.llama_cpp.server import LlamaServer

_HOST = "127.0.0.1"
_PATIENCE = 600.0  # seconds until it has to answer: it reads the whole model first
_PROMPTS_KEPT = 0  # MiB of other prompts' states, which would be copied and are of no use here
_TRIED = 5  # ports, each free when it was looked at


@contextmanager
def running(params: Params, gguf: Path | None = None) -> Iterator[LlamaServer]:
    """The server that `serving.llama_cpp` asks for: the one it names, or one of our own.

    `gguf` is a model file to start in place of either. Raises PipelineError as `started`, and where
    there is no model file to start.
    """
    asked = params.serving.llama_cpp
    if gguf is None and asked.running_at is not None and asked.state_folder is not None:
        yield LlamaServer(asked.running_at, Path(asked.state_folder))
        return
    named = None if asked.gguf is None else Path(asked.gguf)
    with gguf_file(params.model, gguf or named) as file, started(file, asked) as own:
        yield own


@contextmanager
def started(gguf: Path, options: LlamaCppParams) -> Iterator[LlamaServer]:
    """A server of a GGUF file on loopback, with a state folder of its own; ended on leaving.

    Raises PipelineError where there is no such file, no llama.cpp, or the server does not start.
    """
    if not gguf.is_file():
        raise PipelineError(f"{gguf}: there is no such file; name a GGUF file of the frozen model")
    with tempfile.TemporaryDirectory(prefix="llama-cpp-") as folder:
        states = Path(folder) / "states"
        states.mkdir()
        with (Path(folder) / "log").open("w+") as log:
            for _ in range(_TRIED):
                port = _free_port()
                process = _start(gguf, options, states, port, log)
                try:
                    if _comes_up(process, port):
                        yield LlamaServer(f"http://{_HOST}:{port}", states)
                        return
                finally:
                    _end(process)
                if _is_free(port):
                    break
            log.seek(0)
            lines = [line.strip() for line in log if line.strip()]
            told = next((line for line in lines if " E " in line or "error" in line.lower()), "")
            raise PipelineError(
                f"{gguf}: llama.cpp's server has ended: {told or (lines or ['no word'])[-1]}"
            )


def _start(
    gguf: Path, options: LlamaCppParams, states: Path, port: int, log: IO[str]
) -> "subprocess.Popen[bytes]":
    command = _command(options)
    command += ["--model", str(gguf.resolve()), "--host", _HOST, "--port", str(port)]
    command += ["--ctx-size", str(options.context * options.slots)]
    command += ["--parallel", str(options.slots), "--no-kv-unified"]
    command += ["--cache-type-k", options.cache_type, "--cache-type-v", options.cache_type]
    command += ["--flash-attn", "on" if options.flash_attn else "off"]
    command += ["--cache-ram", str(_PROMPTS_KEPT)]
    command += ["--slot-save-path", f"{states}/"]
    if options.threads is not None:
        command += ["--threads", str(options.threads), "--threads-batch", str(options.threads)]
    # Ctrl-C reaches this process alone, which then ends the server.
    return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def _command(options: LlamaCppParams) -> list[str]:
    if options.server is not None and options.running_at is None:
        if (named := shutil.which(options.server)) is None:
            raise PipelineError(
                f"serving.llama_cpp.server: {options.server} is no program; name a llama-server, "
                "or the address of a server that runs, such as http://127.0.0.1:8080"
            )
        return [named]
    if find_spec("xllamacpp") is not None:
        return [sys.executable, "-P", str(Path(__file__).with_name("xllamacpp_server.py"))]
    if (found := shutil.which("llama-server")) is not None:
        return [found]
    raise PipelineError(
        "there is no llama.cpp: run `pip install '.[llama_cpp]'` for xllamacpp's server, put "
        "llama-server on PATH, or name it in serving.llama_cpp.server"
    )


def _comes_up(process: "subprocess.Popen[bytes]", port: int) -> bool:
    """Whether it answers before it ends."""
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        if process.poll() is not None:
            return False
        try:
            if httpx2.get(f"http://{_HOST}:{port}/health", timeout=5).is_success:
                return True
        except httpx2.HTTPError:
            pass
        time.sleep(0.05)
    return False


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((_HOST, port)) != 0
