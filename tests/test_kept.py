"""A process that runs several stages: the model is loaded and hashed once, with the same bytes."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.data.task_type import TaskType
from pipeline.models import shared
from pipeline.models.kept import let_go
from pipeline.prefix import PrefixConfig, PrefixModel
from pipeline.schema.compute import Compute
from pipeline.training.compilation import compile_layers, uncompile_layers
from pipeline.workspace import checksums
from pipeline.workspace.checksums import sha256_of
from tests.conftest import Workspace

CPU = Compute(device="cpu")
CAUSAL = TaskType()


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    let_go()
    yield
    let_go()


def load(folder: Path, compute: Compute = CPU) -> Any:
    model, new = shared.load_for_task(folder, compute, CAUSAL)
    assert new == ()
    return model


def test_a_model_is_loaded_once(model_folder: Path) -> None:
    first = load(model_folder)
    assert load(model_folder) is first
    assert shared.load_frozen_model(model_folder, CPU) is first
    named, _ = shared.load_for_task(model_folder, CPU, CAUSAL, device_map=None)
    assert named is first
    assert shared.load_frozen_model(model_folder, CPU, None) is first
    # Sections of params.yaml are of classes of their own.
    assert load(model_folder, type("Other", (Compute,), {})(device="cpu")) is first


def test_one_is_kept_for_one_way_to_compute(model_folder: Path) -> None:
    first = load(model_folder)
    other = load(model_folder, Compute(device="cpu", dtype="bfloat16"))
    assert other.dtype == torch.bfloat16
    assert load(model_folder) is not first
    let_go()
    assert load(model_folder) is not first


def test_another_folder_and_an_edited_one_are_loaded(model_folder: Path, tmp_path: Path) -> None:
    first = load(model_folder)
    copy = tmp_path / "model"
    copy.mkdir()
    for path in model_folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    second = load(copy)
    assert second is not first
    assert load(copy) is second
    config = copy / "config.json"
    before = config.stat()
    config.write_text(config.read_text().replace('"vocab_size"', '"vocab_size" '))
    os.utime(config, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert load(copy) is not second


def _hook(model: Any) -> None:
    model.model.layers[0].register_forward_pre_hook(lambda *_: None)


def _write(model: Any) -> None:
    with torch.no_grad():
        model.model.norm.weight.mul_(1.0)


def _buffer(model: Any) -> None:
    # As a rotary embedding does that changes with the length.
    with torch.inference_mode():
        rotary = model.model.rotary_emb
        rotary.register_buffer("inv_freq", rotary.inv_freq * 1.0, persistent=False)


CHANGES: dict[str, Callable[[Any], object]] = {
    "a hook": _hook,
    "a weight": _write,
    "compiled": lambda model: model.model.layers[0].compile(),
    "training": lambda model: model.train(),
    "gradients": lambda model: model.model.norm.requires_grad_(True),
    "attention": lambda model: model.set_attn_implementation("eager"),
    "configuration": lambda model: setattr(model.config, "pad_token_id", 5),
    "replaced": lambda model: setattr(model, "lm_head", torch.nn.Identity()),
    "a buffer": _buffer,
    "a set": lambda model: model._non_persistent_buffers_set.add("other"),
    "an attribute": lambda model: setattr(model, "rope_deltas", torch.zeros(1)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_a_stage_has_changed_is_not_handed_on(
    model_folder: Path, change: Callable[[Any], object]
) -> None:
    first = load(model_folder)
    change(first)
    second = load(model_folder)
    assert second is not first
    assert load(model_folder) is second


def test_a_prefix_that_was_taken_off_leaves_the_model_as_it_was(model_folder: Path) -> None:
    first = load(model_folder)
    prefixed = PrefixModel(first, PrefixConfig(num_virtual_tokens=3))
    ids = torch.tensor([[5, 6, 7]])
    prefixed(input_ids=ids).logits.sum().backward()
    assert prefixed.why_not_packed(tokens=8) is None
    prefixed.packed_logits(ids[0], [3], torch.tensor([2]))
    prefixed.detach()
    assert load(model_folder) is first


def test_a_model_whose_weights_wait_can_be_followed_by_another_stage(model_folder: Path) -> None:
    """What is brought in inference mode, in which texts are generated, is counted by nobody."""
    names = ("model.embed_tokens", "model.rotary_emb", "model.layers", "model.norm", "lm_head")
    places: dict[str, int | str] = {**dict.fromkeys(names, "disk"), "model.norm": "cpu"}
    first, _ = shared.load_for_task(model_folder, Compute(), CAUSAL, device_map=places)
    with torch.inference_mode():
        wanted = first(input_ids=torch.tensor([[5, 6]])).logits
    second, _ = shared.load_for_task(model_folder, Compute(), CAUSAL, device_map=places)
    assert torch.equal(second(input_ids=torch.tensor([[5, 6]])).logits, wanted)


@pytest.mark.parametrize("is_compiled", [True, False])
def test_a_training_leaves_the_layers_as_they_were(model_folder: Path, is_compiled: bool) -> None:
    first = load(model_folder)
    if is_compiled:
        compile_layers(first)
    uncompile_layers(first)
    assert load(model_folder) is first


def test_heads_are_drawn_for_each_seed(model_folder: Path) -> None:
    task = TaskType("seq_cls", ("a", "b"))
    kept_before = load(model_folder)
    first, new = shared.load_for_task(model_folder, CPU, task, 0)
    again, _ = shared.load_for_task(model_folder, CPU, task, 0)
    assert new
    assert again is not first
    # Nothing is held beside a model of its own.
    assert load(model_folder) is not kept_before


ALL_STAGES = """
import json, sys
import pipeline.cli.main
from pipeline.models import for_task
loads = []
load = for_task.load_for_task
def counted(folder, compute, *rest, **named):
    loads.append(compute.dtype)
    return load(folder, compute, *rest, **named)
for_task.load_for_task = counted
for command in json.loads(sys.argv[1]):
    pipeline.cli.main.main.main(command, standalone_mode=False)
print("loads", json.dumps(loads))
"""


@pytest.mark.real
def test_stages_of_one_process_write_what_each_writes_alone(copy: Workspace) -> None:
    """Bit for bit, in both orders; `copy` was written by a process a stage."""
    variants = [(2, "random"), (4, "corpus")]
    commands = [["kv_prefix", "corpus"], ["baselines", "no_prefix"]]
    for stage in ("train", "evaluate"):
        for length, name in variants:
            options = ["--length", str(length), "--initialization", name, "--seed", "0"]
            commands.append([stage, *options])
    commands.append(["inspect"])
    data = copy.root / "data"
    names = [f"len{length}-{name}-seed0" for length, name in variants]
    folders = ["kv_prefix/corpus", "evaluate/no_prefix", "inspection"]
    folders += [f"{stage}/{name}" for stage in ("train", "evaluate") for name in names]
    files = sorted(p for name in folders for p in (data / name).rglob("*") if p.is_file())
    before = {path: path.read_bytes() for path in files}
    times = {path: path.stat().st_mtime_ns for path in files}
    both = [*commands, *commands[::-1]]
    told = copy.run("python", "-c", ALL_STAGES, json.dumps(both)).stdout
    assert {path: path.read_bytes() for path in files} == before
    assert all(path.stat().st_mtime_ns > times[path] for path in files), "all were written anew"
    # `kv_prefix` computes in float32. Once hidden states were asked for, as by `inspect`, there are
    # hooks of transformers on the model, and what comes after it loads another.
    in_order, backwards = ["float32", "auto"], ["auto", "auto", "float32"]
    assert json.loads(told.rpartition("loads ")[2]) == [*in_order, *backwards]


def _computed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are read for a checksum from now on."""
    found: list[Path] = []
    compute = checksums._computed

    def noted(path: Path) -> str:
        found.append(path)
        return compute(path)

    monkeypatch.setattr(checksums, "_computed", noted)
    return found


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A large file in the data of a workspace."""
    monkeypatch.chdir(tmp_path)
    path = Path("data/model/model.safetensors")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * 2**21)
    return path


def test_a_checksum_is_remembered_until_the_file_changes(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksums, "_SETTLED_AFTER", -60.0)
    read = _computed(monkeypatch)
    first = sha256_of(large)
    assert [sha256_of(large) for _ in range(3)] == [first] * 3
    assert read == [large]
    before = large.stat()
    with large.open("r+b") as file:
        file.write(b"y")
    # As large, and as old by the clock that a program can set.
    os.utime(large, ns=(before.st_atime_ns, before.st_mtime_ns))
    second = sha256_of(large)
    assert second != first
    assert len(read) == 2
    Path("data/checksums.json").write_text("damaged")
    assert sha256_of(large) == second
    assert len(read) == 3


def test_a_file_that_was_just_written_is_not_trusted(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = _computed(monkeypatch)
    assert sha256_of(large) == sha256_of(large)
    assert len(read) == 2
    assert not Path("data/checksums.json").exists()


def test_data_on_another_disk_is_remembered(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksums, "_SETTLED_AFTER", -60.0)
    Path("data").rename("disk")
    Path("data").symlink_to("disk")
    Path("disk/model/model.safetensors").rename("linked")
    large.symlink_to(Path("linked").resolve())
    read = _computed(monkeypatch)
    first = sha256_of(large)
    assert sha256_of(large) == first
    assert read == [large]
    # Another file under the same name.
    Path("other").write_bytes(b"y" * 2**21)
    large.unlink()
    large.symlink_to(Path("other").resolve())
    assert sha256_of(large) != first


def test_nothing_is_remembered_of_files_elsewhere(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksums, "_SETTLED_AFTER", -60.0)
    other = large.rename("elsewhere")
    assert sha256_of(other) == sha256_of(other)
    assert not Path("data/checksums.json").exists()
