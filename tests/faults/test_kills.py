"""A training that is killed, stopped or cut off at any moment ends with the same bytes."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.train import TrainParams
from pipeline.prefix import (
    KVPrefix,
    PrefixConfig,
    PrefixModel,
    kv_prefix_from_text,
    random_kv_prefix,
)
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.compilation import missing_compiler
from pipeline.training.loop import train_prefix
from pipeline.training.progress import TrainingResult
from pipeline.workspace.checkpoints import FILE
from tests import forking
from tests.conftest import CORPUS, DEAR, REAL, ROOT, tiny_model, tiny_tokenizer
from tests.prefix.encoders import build

KILLS = int(os.environ.get("KILLS", "12"))
FEW = int(os.environ.get("KILLS", "3"))


def killed(of: str, kills: int) -> list[dict[str, Any]]:
    """What becomes of a stage that is killed so often."""
    options = ("--of", of, "--kills", str(kills), "--seed", "7")
    python = str((forking.commands() or REAL) / "python")
    result = subprocess.run(
        [python, "-m", "tests.faults.kills", *options],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    outcomes = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    assert len(outcomes) == kills
    assert all(outcome["is_identical"] for outcome in outcomes)
    return outcomes


@pytest.mark.real
@pytest.mark.parametrize("stage", ["self_study", "teach", "library"])
def test_stages_with_no_steps_of_their_own_killed_at_random_moments(stage: str) -> None:
    killed(stage, FEW)


@pytest.mark.real
def test_killed_at_random_moments() -> None:
    outcomes = killed("train", KILLS)
    # The moments are spread over the training, or nothing would have been tried.
    assert len({outcome["resumed_after_step"] for outcome in outcomes}) >= 4


def examples() -> Dataset:
    draw = torch.Generator().manual_seed(1)
    return Dataset.from_list(
        [
            {
                "input_ids": torch.randint(4, 260, (6 + 3 * i,), generator=draw).tolist(),
                "target_start": 3 + i,
            }
            for i in range(7)
        ]
    )


class CutOffError(Exception):
    """Stands for the end of a process."""


def train(
    config: PrefixConfig,
    params: TrainParams,
    checkpoints: CheckpointFolder | None = None,
    cut_after: int | None = None,
) -> TrainingResult:
    """A training from its beginning or its checkpoint; cut off after a step, if one is given."""

    def log_step(step: int, _: Mapping[str, float]) -> None:
        if step == cut_after:
            raise CutOffError

    model = PrefixModel(tiny_model(), config)
    p = config.num_virtual_tokens
    model.load_kv_prefix(kv_prefix_from_text(model.frozen_model, tiny_tokenizer(), CORPUS, p))
    return train_prefix(model, examples(), examples(), params, 3, log_step, checkpoints)


def same(one: TrainingResult, other: TrainingResult) -> bool:
    assert isinstance(one.prefix, KVPrefix)
    assert isinstance(other.prefix, KVPrefix)
    return (
        one.history == other.history
        and one.metrics() == other.metrics()
        and one.stopped_early == other.stopped_early
        and one.prefix.metadata == other.prefix.metadata
        and one.prefix.layers == other.prefix.layers
        and one.prefix.parts == other.prefix.parts
        and one.prefix.modules.keys() == other.prefix.modules.keys()
        and all(torch.equal(one.prefix.modules[k], v) for k, v in other.prefix.modules.items())
        and all(map(torch.equal, one.prefix.keys, other.prefix.keys))
        and all(map(torch.equal, one.prefix.values, other.prefix.values))
    )


ENCODERS: dict[str, dict[str, Any]] = {
    "flat": {},
    "projected": {"prefix_projection": True, "encoder_hidden_size": 8},
    "dropout": {"prefix_dropout": 0.3},
    "frozen first token": {"num_frozen_tokens": 1},
    "one layer": {"layers": [1]},
}


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ENCODERS)
@settings(max_examples=4, deadline=None, derandomize=True)
@given(
    cuts=st.lists(st.integers(1, 11), min_size=1, max_size=3),
    every=st.integers(1, 6),
    schedule=st.sampled_from(["linear", "cosine", "constant"]),
    patience=st.sampled_from([None, 1]),
)
def test_resumed_is_uninterrupted(
    encoder: str,
    tmp_path_factory: pytest.TempPathFactory,
    cuts: list[int],
    every: int,
    schedule: Any,
    patience: int | None,
) -> None:
    config = PrefixConfig(num_virtual_tokens=4, **ENCODERS[encoder])
    params = TrainParams(
        epochs=None,
        max_steps=11,
        batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=0.05,
        schedule=schedule,
        warmup_steps=2,
        eval_every_steps=3,
        early_stopping_patience=patience,
    )
    whole = train(config, params)
    folder = CheckpointFolder(tmp_path_factory.mktemp("cut") / "x", "digest", every)
    for cut in sorted(cuts):
        if cut <= whole.step:
            with pytest.raises(CutOffError):
                train(config, params, folder, cut_after=cut)
    assert same(train(config, params, folder), whole)
    # Finished: what is asked for again is only read.
    assert same(train(config, params, folder, cut_after=whole.step), whole)


# What is trained has several parts, or a head beside it.
OTHER_TASKS: dict[str, tuple[str, str, list[int]]] = {
    "parts": ("t5", "", [7, 8, 1]),
    "head": ("bert", "", [2]),
    "head, a label a word": ("bert", "ForTokenClassification", [0, 2]),
}


def examples_of(target: list[int]) -> Dataset:
    draw = torch.Generator().manual_seed(1)
    rows = []
    for i in range(7):
        source = torch.randint(4, 120, (3 + i,), generator=draw).tolist()
        shifted = [(token + i) % 3 if len(target) < 3 else token for token in target]
        rows.append({"input_ids": [*source, *shifted], "target_start": len(source)})
    split = Dataset.from_list(rows)
    return split.add_column("positions", [[0, 2]] * 7) if len(target) == 2 else split


@pytest.mark.slow
@pytest.mark.parametrize("task", OTHER_TASKS)
def test_resumed_is_uninterrupted_beside_a_head_and_of_parts(task: str, tmp_path: Path) -> None:
    name, ending, target = OTHER_TASKS[task]
    heads = () if name == "t5" else ("classifier",)
    split = examples_of(target)
    params = TrainParams(
        epochs=None, max_steps=6, batch_size=2, learning_rate=0.05, eval_every_steps=2
    )

    def run(folder: CheckpointFolder | None, cut_after: int | None = None) -> TrainingResult:
        def log_step(step: int, _: Mapping[str, float]) -> None:
            if step == cut_after:
                raise CutOffError

        config = PrefixConfig(num_virtual_tokens=3, modules_to_save=heads)
        model = PrefixModel(build(name, ending), config)
        draw = torch.Generator().manual_seed(0)
        model.load_kv_prefix(random_kv_prefix(model.kv_shapes, 3, 0.1, draw))
        return train_prefix(model, split, split, params, 3, log_step, folder)

    whole = run(None)
    assert isinstance(whole.prefix, KVPrefix)
    assert whole.best_step > 0
    assert bool(whole.prefix.modules) == bool(heads)
    folder = CheckpointFolder(tmp_path / "x", "digest", 1)
    # The second time the best prefix is out of the checkpoint, and may stay the best.
    for cut in (2, 5):
        with pytest.raises(CutOffError):
            run(folder, cut)
    assert same(run(folder), whole)
    assert same(run(folder), whole)


@DEAR
@pytest.mark.slow
@pytest.mark.skipif(missing_compiler() is not None, reason=str(missing_compiler()))
def test_resumed_is_uninterrupted_when_compiled(tmp_path: Path) -> None:
    config = PrefixConfig(num_virtual_tokens=4)
    params = TrainParams(epochs=None, max_steps=6, batch_size=3, compile=True)
    folder = CheckpointFolder(tmp_path / "x", "digest", 2)
    with pytest.raises(CutOffError):
        train(config, params, folder, cut_after=5)
    # Code that was generated in this process would serve the second training too.
    torch.compiler.reset()
    resumed = train(config, params, folder)
    torch.compiler.reset()
    assert same(resumed, train(config, params))


def test_a_checkpoint_of_something_else_is_not_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = PrefixConfig(num_virtual_tokens=4)
    params = TrainParams(epochs=None, max_steps=4, batch_size=2)
    folder = CheckpointFolder(tmp_path / "x", "digest", 1)
    whole = train(config, params, folder)
    other = CheckpointFolder(tmp_path / "x", "another digest", 1)
    assert same(train(config, params, other), whole)
    assert "is damaged or of another training" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["cut", "a bit", "empty", "zeros"])
def test_a_damaged_checkpoint_is_not_believed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    config = PrefixConfig(num_virtual_tokens=4)
    params = TrainParams(epochs=None, max_steps=4, batch_size=2)
    folder = CheckpointFolder(tmp_path / "x", "digest", 1)
    whole = train(config, params, folder)
    path = folder.folder / FILE
    content = bytearray(path.read_bytes())
    if damage == "a bit":
        content[-9] ^= 1
    damaged: dict[str, bytes] = {
        "cut": bytes(content[: len(content) // 2]),
        "a bit": bytes(content),
        "empty": b"",
        "zeros": bytes(len(content)),
    }
    path.write_bytes(damaged[damage])
    assert same(train(config, params, folder), whole)
    assert "is damaged or of another training" in capsys.readouterr().out
