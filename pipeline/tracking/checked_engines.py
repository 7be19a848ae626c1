"""Which engines a registered prefix was checked with, in the description of its version."""

import os
import sys
from collections.abc import Iterable
from importlib.metadata import version as installed
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from pipeline.config import Params
from pipeline.tracking.aliases import alias_of
from pipeline.tracking.store import prepare, told

_CHECKED = "checked."


def describe_version(client: MlflowClient, registered: str, version: str) -> None:
    """Write a version's description: what it is, and each engine with what was found of it.

    Nothing is listed that was not tried with this very prefix.
    """
    known = client.get_model_version(registered, version)
    found = {
        key.removeprefix(_CHECKED): value
        for key, value in sorted(known.tags.items())
        if key.startswith(_CHECKED)
    }
    lines = [
        "Text in, text out, after a trained prefix; the parameter `prefix` names another version "
        "by its alias.",
        "",
        "Checked with:",
        *(f"- {engine}: {what}" for engine, what in found.items()),
    ]
    description = "\n".join(lines)
    if known.description != description:
        client.update_model_version(registered, version, description)


def record_evaluation(client: MlflowClient, registered: str, version: str) -> None:
    """That transformers answered the evaluation with a version's prefix."""
    what = f"the evaluation of its run, by {installed('transformers')}"
    client.set_model_version_tag(registered, version, f"{_CHECKED}transformers", what)
    describe_version(client, registered, version)


def record_check(params: Params, names: Iterable[str], engine: str, found: str) -> None:
    """What was found of an engine before it answered with prefixes, or a file of them was written.

    `names` are variants and imported adapters; one that is no version of the registered model is
    passed over. A store that is out of reach is a warning, and none is made.
    """
    if not (os.environ.get("MLFLOW_TRACKING_URI") or Path("mlflow.db").exists()):
        return
    prepare()
    registered = params.mlflow.model_name
    try:
        client = MlflowClient()
        for name in names:
            known = _version(client, registered, alias_of(name))
            if known is not None:
                tag = f"{_CHECKED}{engine}"
                client.set_model_version_tag(registered, known.version, tag, found[:5000])
                describe_version(client, registered, known.version)
    except Exception as error:  # a server's own come through, too
        print(
            f"warning: MLflow could not be told what was checked with {engine} ({told(error)})",
            file=sys.stderr,
        )


def _version(client: MlflowClient, registered: str, alias: str) -> ModelVersion | None:
    try:
        return client.get_model_version_by_alias(registered, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
