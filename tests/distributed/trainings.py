"""Small trainings by name, for one process or several.

torchrun --nproc-per-node 2 -m tests.distributed.trainings FOLDER

runs them all, and writes of each process a JSON file `FOLDER/<rank>.json`: for each name the
training's numbers. And the stage `train` in `FOLDER/stage`, made before.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel

from pipeline.config import load_params
from pipeline.config.train import TrainParams
from pipeline.data.teacher import TEACHER_IDS, TEACHER_LOG_PROBS
from pipeline.distributed.joining import joined
from pipeline.distributed.ranks import ALONE, Ranks
from pipeline.distributed.sharding import is_sharded, shard_frozen_model
from pipeline.errors import StoppedError
from pipeline.prefix import KVPrefix, PrefixConfig, PrefixModel, kv_prefix_from_text
from pipeline.stages import train
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.loop import train_prefix
from pipeline.training.trained import TrainedWeights
from tests.conftest import CORPUS, tiny_model, tiny_tokenizer
from tests.faults.training_folder import VARIANT, working_in
from tests.hybrids import qwen3_next

STEPS, STOPPED_AFTER = 6, 3
STAGE = "stage"
"""Where the stage `train` runs, below the folder of all."""
# Three micro-batches of 3 and 1 example and one of 3 in each pass over 7: with two processes one
# gets fewer examples, or none.
_TRAIN = {"batch_size": 3, "gradient_accumulation_steps": 2, "learning_rate": 1e-2}


def examples(count: int = 7) -> Dataset:
    """Random tokens, no two rows of one length."""
    draw = torch.Generator().manual_seed(0)
    rows = [torch.randint(4, 260, (12 + 5 * i,), generator=draw).tolist() for i in range(count)]
    return Dataset.from_list([{"input_ids": row, "target_start": 4} for row in rows])


def taught(count: int = 7, k: int = 3) -> Dataset:
    """The same, with a random teacher's top k at each target."""
    draw = torch.Generator().manual_seed(1)
    rows = []
    for row in examples(count):
        teacher = torch.randn(len(row["input_ids"]) - row["target_start"], 260, generator=draw)
        top = torch.log_softmax(teacher, -1).topk(k)
        rows.append(
            row | {TEACHER_IDS: top.indices.tolist(), TEACHER_LOG_PROBS: top.values.tolist()}
        )
    return Dataset.from_list(rows)


def numbers(
    ranks: Ranks,
    *,
    prefixed: bool = True,
    sharded: bool = False,
    data: Callable[[int], Dataset] = examples,
    dtype: torch.dtype = torch.float32,
    build: Callable[[], PreTrainedModel] = tiny_model,
    config: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
    checkpoints: CheckpointFolder | None = None,
    log_step: Callable[[int, object], None] = lambda step, metrics: None,
) -> dict[str, list[float]]:
    """Train a tiny model's prefix, or all of its weights.

    Returns what was best, the parameters at the end, and the history.
    """
    base = build().to(dtype)
    model = PrefixModel(base)
    if prefixed:
        model = PrefixModel(base, PrefixConfig(4, **{"prefix_dropout": 0.1, **(config or {})}))
        model.load_kv_prefix(kv_prefix_from_text(build(), tiny_tokenizer(), CORPUS, 4))
    if sharded and ranks.size > 1:
        whole = sum(parameter.numel() for parameter in base.parameters())
        shard_frozen_model(model, ranks, torch.device("cpu"))
        held = sum(parameter.to_local().numel() for parameter in base.parameters())
        assert is_sharded(base)
        assert held < 0.6 * whole
    settings = {"epochs": None, "max_steps": STEPS, "eval_every_steps": 2, **_TRAIN}
    result = train_prefix(
        model,
        data(7),
        data(5),
        TrainParams(**settings | dict(params or {})),
        3,
        log_step,
        checkpoints if ranks.is_first else None,
        ranks=ranks,
    )
    kept = result.prefix
    best = kept.tensors.values() if isinstance(kept, TrainedWeights) else tensors_of(kept)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return {
        "best": torch.cat([tensor.flatten() for tensor in best]).tolist(),
        "end": torch.cat([tensor.detach().flatten() for tensor in trained]).tolist(),
        "loss": [value for row in result.history for value in row.values()],
    }


def tensors_of(kv: KVPrefix) -> list[torch.Tensor]:
    """Every number of a prefix."""
    return [*kv.keys, *kv.values, *kv.states.values()]


def stopped(ranks: Ranks, folder: CheckpointFolder) -> None:
    """A training that ends by a signal to the last of the processes alone."""

    def log_step(step: int, _: object) -> None:
        if step == STOPPED_AFTER and ranks.rank == ranks.size - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        numbers(ranks, checkpoints=folder, log_step=log_step)
    except StoppedError as error:
        assert f"after step {STOPPED_AFTER} of {STEPS}" in str(error)  # noqa: PT017
        return
    raise AssertionError("no process stopped")


_DISTILLED: dict[str, Any] = {
    "data": taught,
    "params": {
        "objective": {
            **{"type": "distillation", "teacher": "rules"},
            **{"path": "data/teachers/rules", "weight": 0.5},
        }
    },
}
TRAININGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "distilled": _DISTILLED,
    "distilled, sharded": {"sharded": True, **_DISTILLED},
    "plain again": {},
    "sharded": {"sharded": True},
    "sharded, for some layers, recomputed": {
        "sharded": True,
        "config": {"layers": [1], "prefix_dropout": 0.0},
        "params": {"gradient_checkpointing": True},
    },
    # Padded in calls of like length, of which one process makes others: each draws its dropout.
    "states": {"build": qwen3_next, "config": {"prefix_dropout": 0.0}},
    "states, sharded": {
        "build": qwen3_next,
        "sharded": True,
        "config": {"prefix_dropout": 0.0},
    },
    "projected": {"config": {"prefix_projection": True, "encoder_hidden_size": 8}},
    # As a trained baseline.
    "all weights": {"prefixed": False, "params": {"learning_rate": 1e-3}},
    "muon, and its mean": {
        "params": {"optimizer": {"type": "muon"}, "averaging": {"type": "ema", "decay": 0.5}}
    },
    "keys slower, relative": {"params": {"key_rate_factor": 0.5, "relative_rates": True}},
    "searched": {
        "params": {
            "learning_rate": "auto",
            # One of them moves nothing, and one diverges.
            "learning_rate_search": {"lowest": 1e-34, "highest": 1e26, "candidates": 3},
        }
    },
    "one example a step": {"params": {"batch_size": 1, "gradient_accumulation_steps": 1}},
    # At a scale of 2^16 gradients of float16 overflow, in one process or another.
    "float16": {"dtype": torch.float16, "params": {"max_grad_norm": None}},
    "stopped early": {
        "params": {
            "learning_rate": 0.2,
            "schedule": "constant",
            "eval_every_steps": 1,
            "early_stopping_patience": 1,
        }
    },
}


def main(folder: Path) -> None:
    """Every training in this process's place among the others, the stage last."""
    torch.set_num_threads(1)
    with joined() as ranks:
        found: dict[str, Any] = {name: numbers(ranks, **how) for name, how in TRAININGS.items()}
        own = CheckpointFolder(folder / "two", "digest", 2)
        stopped(ranks, own)
        found["resumed"] = numbers(ranks, checkpoints=own)
        one = CheckpointFolder(folder / "one", "digest", 2)
        found["begun by one"] = numbers(ranks, checkpoints=one)
        stopped(ranks, CheckpointFolder(folder / "left", "digest", 2))
        with working_in(folder / STAGE):
            train.run(load_params(), VARIANT, ranks)
        (folder / f"{ranks.rank}.json").write_text(json.dumps(found))


def alone(folder: Path) -> dict[str, Any]:
    """The same in one process, which leaves the checkpoint that the others go on from."""
    stopped(ALONE, CheckpointFolder(folder / "one", "digest", 2))
    return {name: numbers(ALONE, **how) for name, how in TRAININGS.items()}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
