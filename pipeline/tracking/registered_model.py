"""Each variant in MLflow's model registry, ready for `mlflow models serve`."""

import hashlib
import io
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import RunTag
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from pipeline.config import Params
from pipeline.storage.records import write_json
from pipeline.sweep.variants import BEST
from pipeline.tracking.adapter_prefix import adapter_prefix
from pipeline.tracking.aliases import alias_of
from pipeline.tracking.checked_engines import record_evaluation
from pipeline.tracking.frozen_copy import frozen_model_sha256
from pipeline.tracking.runs import sha256
from pipeline.workspace import paths

SERVED_ROOMS = (
    *("baselines", "config", "corpus", "data", "errors", "inference", "initialization", "metrics"),
    *("models", "prefix", "progress", "schema", "storage", "sweep", "tracking", "workspace"),
)
"""The rooms of this package that a served model imports, and a copy of which it keeps."""

_PACKAGE = Path(__file__).resolve().parent.parent

_NEEDED = ("jinja2", "mlflow", "pydantic", "ruamel.yaml", "safetensors", "torch", "transformers")


def register_model(params: Params, name: str, run_id: str, prefix: Path) -> str | None:
    """Log a prefix as a model of its run, and register it; returns the logged model's id.

    The registered model is `mlflow.registered_model`, else named as the experiment: a version a
    variant, with `alias_of` its name as its alias: `models:/prefix-tuning@len8-random-seed0`. A run
    whose model is of the same prefix and settings keeps it. None when `mlflow.models` is none, and
    for other tasks than causal language modelling, whose prefixes are not served as text in, text
    out.
    """
    if not _is_served(params):
        return None
    settings = _settings(params, name)
    of_prefix = sha256(prefix)
    parts = [of_prefix, params.mlflow.models, settings]
    entry = json.dumps(parts, sort_keys=True)
    digest = hashlib.sha256(entry.encode()).hexdigest()
    client = MlflowClient()
    tags = client.get_run(run_id).data.tags
    if tags.get("model_sha256") != digest:
        made = _log(params, name, run_id, settings, prefix)
        # The digest last: a run without it was cut short, and its model is logged again.
        tags = {
            "model_id": str(made.model_id),
            "model_version": str(made.registered_model_version),
            "model_sha256": digest,
        }
        client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
    client.set_registered_model_alias(
        params.mlflow.model_name, alias_of(name), tags["model_version"]
    )
    record_evaluation(client, params.mlflow.model_name, tags["model_version"], of_prefix)
    return str(tags["model_id"])


def register_adapter(params: Params, name: str, run_id: str, folder: Path) -> str | None:
    """As `register_model`, for the prefix in a PEFT adapter folder."""
    with adapter_prefix(folder) as prefix:
        return register_model(params, name, run_id, prefix)


def mark_best(params: Params, run_id: str) -> None:
    """Give the registered model's alias `best` to the version of a run."""
    client = MlflowClient()
    version = client.get_run(run_id).data.tags.get("model_version")
    if version is not None and _is_served(params):
        client.set_registered_model_alias(params.mlflow.model_name, BEST, version)


def _is_served(params: Params) -> bool:
    return params.mlflow.models != "none" and params.task.type == "causal_lm"


def _settings(params: Params, name: str) -> dict[str, Any]:
    return {
        "variant": name,
        "registered_model": params.mlflow.model_name,
        "task": params.task.model_dump(),
        "compute": params.evaluate.model_dump(include={"device", "dtype"}),
        "max_new_tokens": params.evaluate.max_new_tokens,
        "prefix_always_visible": params.prefix.prefix_always_visible,
        "frozen_model_sha256": frozen_model_sha256(paths.MODEL),
    }


def _log(params: Params, name: str, run_id: str, settings: dict[str, Any], prefix: Path) -> Any:
    signature = ModelSignature(
        inputs=Schema([ColSpec(DataType.string)]),
        outputs=Schema([ColSpec(DataType.string)]),
        params=ParamSchema(
            [
                ParamSpec("max_new_tokens", DataType.long, params.evaluate.max_new_tokens),
                ParamSpec("temperature", DataType.double, 0.0),
                ParamSpec("top_p", DataType.double, 1.0),
                ParamSpec("seed", DataType.long, 0),
                ParamSpec("prefix", DataType.string, ""),
            ]
        ),
    )
    with tempfile.TemporaryDirectory() as folder, _quietly():
        write_json(Path(folder) / "settings.json", settings)
        artifacts = {"prefix": str(prefix), "settings": str(Path(folder) / "settings.json")}
        if params.mlflow.models == "complete":
            artifacts["frozen_model"] = str(paths.MODEL)
        # As mlflow.pyfunc.log_model does, which would make the run an active one: its end, and so
        # its duration, would no longer be those of the training.
        return Model.log(
            artifact_path=None,
            name=alias_of(name),
            flavor=mlflow.pyfunc,
            run_id=run_id,
            python_model=str(_PACKAGE / "tracking" / "text_model.py"),
            artifacts=artifacts,
            model_config={
                "frozen_model": str(paths.MODEL.resolve()),
                "device_map": params.device_map,
            },
            code_paths=[str(Path(_served_code().name) / _PACKAGE.name)],
            signature=signature,
            pip_requirements=_requirements(),
            registered_model_name=params.mlflow.model_name,
        )


@cache
def _requirements() -> list[str]:
    return [f"{package}=={version(package)}" for package in _NEEDED]


@cache
def _served_code() -> "tempfile.TemporaryDirectory[str]":
    """A copy of the package without what no served model needs: MLflow copies it for each."""
    folder = tempfile.TemporaryDirectory(prefix="served-code-")

    def left_out(of: str, names: list[str]) -> list[str]:
        rooms = [name for name in names if (Path(of) / name).is_dir()]
        is_package = Path(of) == _PACKAGE
        return [n for n in rooms if n == "__pycache__" or (is_package and n not in SERVED_ROOMS)]

    shutil.copytree(_PACKAGE, Path(folder.name) / _PACKAGE.name, ignore=left_out)
    return folder


@contextmanager
def _quietly() -> Iterator[None]:
    """Without MLflow's progress bars, news of the registry, and hints on what was left out.

    They are many lines for each variant; what fails is raised.
    """
    with redirect_stderr(io.StringIO()):
        yield
