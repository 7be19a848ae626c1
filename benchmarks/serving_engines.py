"""`python -m benchmarks.serving_engines`: what every engine of `python -m pipeline serve` serves.

Each engine runs in a server of its own, all of the same frozen model and prefix, and the servers
take turns: in each round every one answers the same questions, 1, 8 and 32 at once, after the
prefix and after none. A server that is not asked computes nothing. vLLM takes part where
`VLLM_PYTHON` names the interpreter of its environment (`make test-vllm` builds one).
"""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import httpx2
from ruamel.yaml import YAML

from benchmarks.llama_gguf import write_gguf
from benchmarks.serving import Target, Timed, ask_at_once, figures_of, table_of
from pipeline.config import load_params
from pipeline.models.frozen import load_frozen_model
from pipeline.models.tokenizer import load_tokenizer
from pipeline.prefix import kv_prefix_from_text
from pipeline.schema.compute import Compute
from pipeline.serving.llama_cpp.gguf import gguf_file
from pipeline.serving.vllm.engine import PYTHON
from pipeline.sources.model import fetch_model

ROOT = Path(__file__).resolve().parent.parent
FROZEN, PREFIX = "frozen", "prefix"
TEXT = ROOT / "corpora" / "reading_records.txt"
_WHOLE, _QUANTIZED = "float32.gguf", "quantized.gguf"


@dataclass(frozen=True)
class Engine:
    """An engine as it is measured.

    Attributes:
        name: of `--engine`.
        dtype: what it computes in; of llama.cpp what it is verified against.
        llama_cpp: entries of `serving.llama_cpp`.
    """

    name: str
    dtype: str = "float32"
    llama_cpp: dict[str, Any] = field(default_factory=dict)


ENGINES = {
    "transformers, bfloat16": Engine("transformers", "bfloat16"),
    "transformers, float32": Engine("transformers"),
    "llama.cpp, float32": Engine("llama.cpp", llama_cpp={"gguf": _WHOLE}),
    "llama.cpp, Q4_1": Engine("llama.cpp", llama_cpp={"gguf": _QUANTIZED}),
    "vllm, bfloat16": Engine("vllm", "bfloat16"),
    "vllm, float32": Engine("vllm"),
}


@click.command()
@click.option("--engine", "names", multiple=True, help="A row of the table.  [default: all]")
@click.option("--at-once", default="1,8,32", show_default=True, help="Numbers of requests.")
@click.option("--tokens", default=64, show_default=True, help="New tokens of each request.")
@click.option("--virtual-tokens", default=32, show_default=True, help="Of the prefix.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--threads", default=2, show_default=True, help="That compute, of each server.")
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    help="A model's folder.  [default: as params.yaml has it]",
)
@click.option(
    "--quantized",
    type=click.Path(path_type=Path),
    help="Its GGUF file.  [default: of model.source: wheel]",
)
def main(
    names: Sequence[str],
    at_once: str,
    tokens: int,
    virtual_tokens: int,
    rounds: int,
    threads: int,
    model: Path | None,
    quantized: Path | None,
) -> None:
    """Start a server of each engine, ask all of them in turns, and print one table."""
    if unknown := [name for name in names if name not in ENGINES]:
        raise click.ClickException(f"--engine: '{unknown[0]}' is none of {', '.join(ENGINES)}")
    chosen = {name: ENGINES[name] for name in names or ENGINES}
    if model is not None and quantized is None and _QUANTIZED in _ggufs(chosen):
        raise click.ClickException("--quantized: name the GGUF file of --model")
    if PYTHON not in os.environ:
        chosen = {name: each for name, each in chosen.items() if each.name != "vllm"}
        click.echo(f"without vLLM: {PYTHON} names no interpreter that has it", err=True)
        if not chosen:
            raise click.ClickException(f"{PYTHON}: name the interpreter of vLLM's environment")
    counts = [int(count) for count in at_once.split(",")]
    with tempfile.TemporaryDirectory(prefix="serving-") as folder, ExitStack() as stack:
        root = Path(folder)
        _make_project(root, model, quantized, virtual_tokens, _ggufs(chosen))
        targets: dict[str, list[Target]] = {}
        for label, engine in chosen.items():
            began = time.monotonic()
            url = stack.enter_context(_served(root, label, engine, max(counts), threads))
            targets[label] = [Target(url, name, tokens, {}, {}) for name in (PREFIX, FROZEN)]
            for target in targets[label]:
                asyncio.run(ask_at_once(target, 1, seed=-1))  # what is made at first use
            click.echo(f"{label}: ready after {time.monotonic() - began:.0f} s", err=True)
        known = _measured(targets, counts, rounds)
    click.echo(
        f"{tokens} new tokens a request, a prefix of {virtual_tokens} virtual tokens, {threads} "
        f"threads, median of {rounds} rounds (least to most); {_versions(chosen)}"
    )
    click.echo(table_of(known))


def _measured(
    targets: dict[str, list[Target]], counts: Sequence[int], rounds: int
) -> dict[str, dict[str, dict[str, list[float]]]]:
    found: dict[str, dict[str, list[list[Timed]]]] = {label: {} for label in targets}
    # What an engine lays out for its first request is no part of a round.
    for target in (target for of_label in targets.values() for target in of_label):
        asyncio.run(ask_at_once(target, 1, seed=-1))
    # Everyone is asked within the same minutes, so that a machine that slows down slows all.
    for turn in range(rounds):
        for count in counts:
            for label, of_label in targets.items():
                for target in of_label:
                    answers = asyncio.run(ask_at_once(target, count, seed=turn * 1000))
                    found[label].setdefault(f"{target.model}|{count}", []).append(answers)
        click.echo(f"round {turn + 1} of {rounds} at {time.strftime('%H:%M:%S')}", err=True)
    return {
        label: {row: figures_of(turns) for row, turns in rows.items()}
        for label, rows in found.items()
    }


def _make_project(
    root: Path, model: Path | None, quantized: Path | None, virtual_tokens: int, ggufs: set[str]
) -> None:
    """A project's folder: the frozen model, these GGUF files, and a text's cache as the prefix."""
    params = load_params(ROOT / "params.yaml")
    (root / "data").mkdir()
    if model is None:
        fetch_model(params.model, root / "data" / "model")
    else:
        (root / "data" / "model").symlink_to(model.resolve())
    frozen = load_frozen_model(root / "data" / "model", Compute(dtype="float32"))
    tokenizer = load_tokenizer(root / "data" / "model")
    if _WHOLE in ggufs:
        write_gguf(root / _WHOLE, frozen, tokenizer)
    if _QUANTIZED in ggufs:
        with gguf_file(params.model, quantized) as file:
            (root / _QUANTIZED).write_bytes(file.read_bytes())
    kv = kv_prefix_from_text(frozen, tokenizer, TEXT.read_text(encoding="utf-8"), virtual_tokens)
    kv.save(root / "prefix.safetensors")


@contextmanager
def _served(root: Path, label: str, engine: Engine, slots: int, threads: int) -> Iterator[str]:
    """A server of the project with these options; yields its address, once it answers."""
    folder = root / label.replace(", ", "-")
    folder.mkdir()
    (folder / "data").mkdir()
    (folder / "data" / "model").symlink_to((root / "data" / "model").resolve())
    params = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["evaluate"] |= {"dtype": engine.dtype, "device": "cpu"}
    params["serving"] |= {"model_name": FROZEN}
    options = {"slots": slots, "context": 512, "threads": threads, "cache_type": "f16"}
    given = {**options, **engine.llama_cpp}
    if "gguf" in given:
        given["gguf"] = str(root / given["gguf"])
    params["serving"]["llama_cpp"] |= given
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump(params, file)
    port = _free_port()
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": str(threads),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-m", "pipeline", "serve", "--engine", engine.name]
    command += ["--prefix", f"{PREFIX}={root / 'prefix.safetensors'}", "--port", str(port)]
    with (folder / "log").open("w+") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            _wait(process, port, folder / "log")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait()


def _wait(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    while process.poll() is None:
        try:
            if httpx2.get(f"http://127.0.0.1:{port}/health", timeout=5).is_success:
                return
        except httpx2.HTTPError:
            time.sleep(0.2)
    raise click.ClickException(f"a server has ended: {log.read_text()[-2000:]}")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _ggufs(chosen: dict[str, Engine]) -> set[str]:
    """The GGUF files that engines need."""
    return {each.llama_cpp["gguf"] for each in chosen.values() if each.llama_cpp}


def _versions(chosen: dict[str, Engine]) -> str:
    engines = {each.name for each in chosen.values()}
    packages = ["torch", "transformers", *(["xllamacpp"] if "llama.cpp" in engines else [])]
    told = [f"{name} {version(name)}" for name in packages]
    if "vllm" in engines:
        code = "import vllm; print(vllm.__version__)"
        command = [os.environ[PYTHON], "-c", code]
        found = subprocess.run(command, capture_output=True, text=True, check=True)
        told.append(f"vllm {found.stdout.split()[-1]}")
    return ", ".join(told)


if __name__ == "__main__":
    main()
