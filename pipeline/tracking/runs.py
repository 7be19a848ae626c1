"""Finding, starting and superseding the runs of one variant or baseline."""

import hashlib
import os
import re
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.utils.git_utils import get_git_commit

from pipeline.config import Params
from pipeline.sweep.variants import Variant
from pipeline.workspace import location

CURRENT = "current"
SUPERSEDED = "superseded"


def metric_group(split: str) -> str:
    """What the names of a split's metrics begin with, once a model is trained.

    A training logs `validation/loss` at every validation: what it comes to in the end is apart.
    """
    return "measured_validation" if split == "validation" else split


def sha256(path: Path) -> str:
    """The checksum that ties a run to a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def runs_named(experiment_id: str, name: str) -> list[Run]:
    """All runs of a variant, a baseline or the sweep, newest first, of this workspace alone.

    Others log to the same server under the same names; their runs are theirs.
    """
    return runs_where(experiment_id, f"tags.variant = '{name}'", location.label())


def runs_where(experiment_id: str, condition: str, workspace: str) -> list[Run]:
    """The runs of the workspace with this label that meet a condition, newest first."""
    return list(
        MlflowClient().search_runs(
            [experiment_id],
            f"{condition} AND tags.workspace = '{workspace}'",
            order_by=["attributes.start_time DESC"],
        )
    )


def start_run(experiment_id: str, name: str, params: dict[str, Any], tags: dict[str, str]) -> str:
    """Create a run named after its variant, make it the current one, and return its id."""
    tags = run_tags(name, tags)
    with mlflow.start_run(experiment_id=experiment_id, run_name=name, tags=tags) as run:
        mlflow.log_params(params)
    make_current(experiment_id, name, run.info.run_id)
    return str(run.info.run_id)


def run_tags(name: str, tags: dict[str, str]) -> dict[str, str]:
    """The tags of a new run: its own, and where and from what it comes."""
    tags = {"variant": name, "state": CURRENT, "workspace": location.label(), **tags}
    if commit := get_git_commit(str(Path.cwd())):
        tags["git_commit"] = commit
    if experiment := os.environ.get("DVC_EXP_NAME"):
        tags["dvc_experiment"] = experiment
    return tags


def make_current(experiment_id: str, name: str, run_id: str) -> None:
    """Mark one run of a variant current and every other superseded, in tag and name.

    Superseded runs stay, so that earlier results can still be compared.
    """
    client = MlflowClient()
    for run in runs_named(experiment_id, name):
        current = run.info.run_id == run_id
        state = CURRENT if current else SUPERSEDED
        if run.data.tags.get("state") != state:
            client.set_tag(run.info.run_id, "state", state)
        shown = name if current else f"{name} ({SUPERSEDED})"
        if run.info.run_name != shown:
            client.set_tag(run.info.run_id, "mlflow.runName", shown)


def variant_params(params: Params, variant: Variant) -> dict[str, Any]:
    """All params that bear on a variant, flat (`section.key`), and its place in the grid."""
    sections = params.model_dump()
    definition = sections.pop("initializations")[variant.initialization]
    for other in ("sweep", "baselines", "trained_baselines", "report"):
        sections.pop(other)
    for changes_nothing in ("checkpoints", "memory", "mlflow"):
        sections.pop(changes_nothing)
    return {
        "length": variant.length,
        "initialization": variant.initialization,
        "seed": variant.seed,
        **({} if variant.train_size is None else {"train_size": variant.train_size}),
        **flatten(sections),
        **flatten({"start": definition}),
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
