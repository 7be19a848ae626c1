"""The sections of params.yaml that differ from the default ones, and what is said of each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.project.frozen_model import ModelChoice
from pipeline.project.sizes import Sizes
from pipeline.project.task import Task

_CONFIG = "data/model/config.json"
_CHANGE = "change it here"
# Fewer examples than these do not fit into the context of a small model beside an input.
_EXAMPLES_IN_CONTEXT = 3
# The default task's is narrow, around what its model is known to want.
_SEARCH = {"lowest": 1e-3, "highest": 1e-1, "candidates": 5, "share_of_steps": 1.0}


@dataclass(frozen=True)
class Plan:
    """What the project compares, with the names of its data files and of its corpus."""

    name: str
    files: Mapping[str, str]
    folder: str
    task: Task
    sizes: Sizes
    model: ModelChoice
    corpus: str | None = None
    blank: int = 0
    divided: str | None = None


def sections_of(plan: Plan) -> dict[str, Any]:
    """What differs, as an example of `examples/` says it."""
    task, sizes = plan.task, plan.sizes.keys
    files = {split: f"{plan.folder}/{name}" for split, name in plan.files.items()}
    data: dict[str, Any] = {"source": "files", "path": plan.folder, "files": files}
    if sizes["data.max_examples"]:
        data["max_examples"] = sizes["data.max_examples"]
    starts = ["vocabulary", "demonstrations", *(["corpus"] if plan.corpus else [])]
    found: dict[str, Any] = {
        **({"model": plan.model.section} if plan.model.section else {}),
        "data": data,
        "task": {
            **task.keys,
            "max_length": sizes["task.max_length"],
            "too_long": sizes.get("task.too_long", "refuse"),
            "empty": "drop" if plan.blank else "refuse",
        },
        "initializations": _initializations(plan),
        # Also what a person may have changed of the default params, so that all goes together.
        "sweep": {
            **{"lengths": sizes["sweep.lengths"], "initializations": starts, "seeds": [0]},
            **{"train_sizes": [], "learning_rates": [], "in_context": []},
        },
        "kv_prefix": {"max_length": sizes["kv_prefix.max_length"]},
        "prefix": {"num_frozen_tokens": 0, "parts": None},
        "train": {
            **{"batch_size": sizes["train.batch_size"], "gradient_accumulation_steps": 1},
            **{"epochs": sizes["train.epochs"], "max_steps": None},
            "learning_rate_search": _SEARCH,
        },
        "evaluate": {
            "splits": [split for split in ("test", "test_unseen") if split in plan.files],
            "metrics": sizes["evaluate.metrics"],
            "max_new_tokens": sizes.get("evaluate.max_new_tokens", 32),
            "teacher": _CONFIG,
        },
        "baselines": _baselines(plan),
        "trained_baselines": {},
        "report": {"sort_by": "loss", "split": "test"},
        "mlflow": {"experiment": plan.name},
    }
    return found


def guesses_of(plan: Plan) -> dict[str, str]:
    """How each key that was guessed was guessed, by `section.key`."""
    return {f"task.{key}": why for key, why in plan.task.guesses.items()} | plan.sizes.guesses


def comments_of(plan: Plan) -> dict[str, str]:
    """What stands above keys of params.yaml: of each guess how it was made."""
    comments = {key: f"guessed: {why}; {_CHANGE}" for key, why in guesses_of(plan).items()}
    if plan.divided is not None:
        comments["data.files"] = (
            f"{plan.divided}; rows with the same input are in the same split. `dvc repro` runs "
            "again what an edit of these files reaches"
        )
    comments["train.learning_rate_search"] = (
        "wide, since nothing is known of this model and these data; narrow it, and lower "
        "share_of_steps, around the rates that are found"
    )
    if plan.blank:
        comments["task.empty"] = f"{plan.blank} rows have an empty input or target"
    comments["baselines"] = "what the prefixes are measured against"
    return comments


def _initializations(plan: Plan) -> dict[str, Any]:
    demonstrations = {"type": "demonstrations", "path": "data/raw/train.jsonl"}
    found: dict[str, Any] = {
        "vocabulary": {"type": "vocabulary", "path": _CONFIG},
        "demonstrations": demonstrations,
    }
    if plan.corpus is not None:
        found["corpus"] = {"type": "corpus_text", "path": plan.corpus}
    return found


def _baselines(plan: Plan) -> dict[str, Any]:
    found: dict[str, Any] = {"no_prefix": {"type": "no_prefix", "path": _CONFIG}}
    context, longest = plan.model.context, plan.sizes.keys["task.max_length"]
    has_room = context is None or _EXAMPLES_IN_CONTEXT * longest <= context
    if plan.task.type == "causal_lm" and has_room:
        found["few_shot"] = {
            "type": "few_shot",
            "path": "data/tokenized/splits/train",
            "shots": [4, 8],
        }
    return found
