"""Memory that runs out, on any device and in any stage: one sentence with the way to take less."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from pipeline.cli.main import main
from pipeline.errors.memory import is_out_of_memory
from pipeline.models.frozen import load_frozen_model
from pipeline.schema.compute import Compute
from pipeline.workspace import paths
from tests.conftest import sweep_of
from tests.faults.training_folder import VARIANT, faulty_params, make_training_folder, write_params

_VARIANT = [
    *("--length", str(VARIANT.length), "--initialization", VARIANT.initialization),
    *("--seed", str(VARIANT.seed)),
]
_TRAINING = (
    "halve train.batch_size and double train.gradient_accumulation_steps, which gives the same "
    "steps, set train.gradient_checkpointing: true, or lower memory.max_tokens_per_batch"
)
_MEASURING = "lower memory.max_tokens_per_batch, which runs nothing else again"
COMMANDS: dict[str, tuple[list[str], str]] = {
    "kv_prefix": (["kv_prefix", "corpus"], "lower kv_prefix.max_length"),
    "train": (["train", *_VARIANT], _TRAINING),
    "train_baseline": (["train_baseline", "full", "--seed", "0"], _TRAINING),
    "evaluate": (["evaluate", *_VARIANT], _MEASURING),
    "baselines": (["baselines", "no_prefix"], _MEASURING),
    "generate": (["generate", "a text", "--variant", VARIANT.name], "lower --max-new-tokens"),
}
# What torch 2.13 raises where memory ends.
ERRORS: dict[str, tuple[Exception, str]] = {
    "CUDA": (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ..."),
        "out of memory on the GPU; ",
    ),
    "CUDA, outside of torch's allocator": (
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        "out of memory on the GPU; ",
    ),
    "MPS": (
        RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB, other allocations: ..."),
        "out of memory on the GPU; ",
    ),
    "CPU": (
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't "
                     "allocate memory: you tried to allocate 4096 bytes. Error code 12"),
        "out of memory; ",
    ),
    "Python": (MemoryError(), "out of memory; "),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder after a short training."""
    folder = tmp_path_factory.mktemp("memory")
    make_training_folder(folder)
    params = faulty_params(Path("inputs/model"))
    params["sweep"] = sweep_of([VARIANT.length], [VARIANT.initialization])
    params["train"] |= {"max_steps": 2}
    params["trained_baselines"] = {"full": {"type": "full_fine_tuning"}}
    write_params(folder, params)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        patch.setattr("pipeline.tracking.delivery._PATIENCE", 0.1)
        result = CliRunner().invoke(main, COMMANDS["train"][0])
        assert result.exit_code == 0, result.output
        yield folder


@pytest.mark.parametrize(("command", "device"), [
    *((command, "CUDA") for command in COMMANDS),
    *(("train", device) for device in ERRORS),
])  # fmt: skip
def test_it_is_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, command: str, device: str
) -> None:
    arguments, remedy = COMMANDS[command]
    error, what = ERRORS[device]

    def fail(*_: object) -> None:
        raise error

    before = {path: path.read_bytes() for path in (folder / "data").rglob("*.safetensors")}
    monkeypatch.setattr(torch.nn.Embedding, "forward", fail)
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: {what}{remedy}")
    assert "Traceback" not in result.output
    assert {path: path.read_bytes() for path in before} == before


def test_it_is_not_taken_for_a_damaged_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers raises a plain RuntimeError for both."""
    error, _ = ERRORS["CPU"]

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", fail)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        load_frozen_model(paths.MODEL, Compute())
    shutil.rmtree(paths.MODEL)
    result = CliRunner().invoke(main, ["fetch_model"])
    assert "error: out of memory; free some memory" in result.stderr


def test_other_errors_are_none_of_memory() -> None:
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(KeyError("out of memory"))
