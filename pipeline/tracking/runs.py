"""What a run of a variant or a baseline is made with: its name, tags and params."""

import hashlib
import os
import re
import time
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Param
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.git_utils import get_git_commit

from pipeline.config import Params
from pipeline.sweep.variants import Variant
from pipeline.tracking.state import CURRENT, make_current, shown_name
from pipeline.workspace import location


def metric_group(split: str) -> str:
    """What the names of a split's metrics begin with, once a model is trained.

    A training logs `validation/loss` at every validation: what it comes to in the end is apart.
    """
    return "measured_validation" if split == "validation" else split


def sha256(path: Path) -> str:
    """The checksum that ties a run to a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def start_run(
    experiment_id: str,
    name: str,
    params: dict[str, Any],
    tags: dict[str, str],
    seconds: float | None = None,
) -> str:
    """Create a run named after its variant, make it the current one, and return its id.

    It is of something that is over. `seconds` is how long its training took; where nothing was
    trained, or nobody knows, MLflow shows no duration rather than that of the logging.
    """
    client = MlflowClient()
    end = int(time.time() * 1000)
    start = end - int(1000 * (seconds or 0))
    tags = resolve_tags(run_tags(name, tags))
    made = client.create_run(experiment_id, start, tags=tags, run_name=shown_name(name))
    run_id = str(made.info.run_id)
    log_params(run_id, params)
    if seconds is None:
        client.update_run(run_id, status="FINISHED")
    else:
        client.set_terminated(run_id, "FINISHED", end)
    make_current(experiment_id, name, run_id)
    return run_id


def log_params(run_id: str, params: dict[str, Any]) -> None:
    """Log params, as many in a request as MLflow takes."""
    items = [Param(key, str(value)) for key, value in params.items()]
    for start in range(0, len(items), 100):
        MlflowClient().log_batch(run_id, params=items[start : start + 100])


def run_tags(name: str, tags: dict[str, str]) -> dict[str, str]:
    """The tags of a new run: its own, and where and from what it comes."""
    tags = {"variant": name, "state": CURRENT, "workspace": location.label(), **tags}
    if commit := get_git_commit(str(Path.cwd())):
        tags["git_commit"] = commit
    if experiment := os.environ.get("DVC_EXP_NAME"):
        tags["dvc_experiment"] = experiment
    return tags


def variant_params(params: Params, variant: Variant) -> dict[str, Any]:
    """All params that bear on a variant, flat (`section.key`), and its place in the grid."""
    rate = params.train.at(variant.learning_rate).learning_rate
    sections = params.model_dump()
    sections["train"]["learning_rate"] = rate
    definition = sections.pop("initializations")[variant.initialization]
    teachers, objective = sections.pop("teachers"), params.train.objective
    taught = {"teacher": teachers[objective.teacher]} if objective.type == "distillation" else {}
    for other in ("sweep", "baselines", "trained_baselines", "library", "report"):
        sections.pop(other)
    for changes_nothing in ("checkpoints", "hardware", "memory", "mlflow"):
        sections.pop(changes_nothing)
    return {
        "length": variant.length,
        "initialization": variant.initialization,
        "seed": variant.seed,
        **({} if variant.train_size is None else {"train_size": variant.train_size}),
        # What a search finds is logged once it is found.
        **({} if rate == "auto" else {"learning_rate": rate}),
        **flatten(sections),
        **flatten({"start": definition} | taught),
    }


def flatten(sections: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping with dotted keys; lists stay values.

    So does a mapping with a key that MLflow would refuse, with the whole run, as a part of a name.
    """
    flat: dict[str, Any] = {}
    for key, value in sections.items():
        if isinstance(value, dict) and all(re.fullmatch(r"\w+", inner) for inner in value):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def variant_tags(variant: Variant) -> dict[str, str]:
    """The tags that runs of a variant are filtered and grouped by."""
    return {
        "kind": "variant",
        "length": str(variant.length),
        "initialization": variant.initialization,
        "seed": str(variant.seed),
        "dvc_stage": variant.dvc_stage,
    }
