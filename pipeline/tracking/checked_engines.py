"""Which engines a registered prefix was checked with, in the description of its version."""

import os
import re
import sys
from collections.abc import Iterable
from importlib.metadata import version as installed
from pathlib import Path

from mlflow import MlflowClient

from pipeline.config import Params
from pipeline.tracking.adapter_prefix import adapter_prefix
from pipeline.tracking.runs import sha256
from pipeline.tracking.store import prepare, told
from pipeline.workspace import paths

_CHECKED = "checked."
_PREFIX = "prefix_sha256"
_HEAD = (
    "Text in, text out, after a trained prefix; the parameter `prefix` names another version by "
    "its alias.\n\nChecked with:"
)


def describe_version(client: MlflowClient, registered: str, version: str) -> None:
    """Write into a version's description what it is, and each engine with what was found of it.

    Nothing is listed that was not tried with this very prefix. What a person wrote stays: beside
    this text, or in its place.
    """
    known = client.get_model_version(registered, version)
    found = {
        key.removeprefix(_CHECKED): value
        for key, value in sorted(known.tags.items())
        if key.startswith(_CHECKED)
    }
    own = "\n".join([_HEAD, *(f"- {engine}: {what}" for engine, what in found.items())])
    engines = "|".join(map(re.escape, found))
    written = re.compile(rf"{re.escape(_HEAD)}(\n- ({engines}): .*)*")
    before = known.description or ""
    description = written.sub(lambda _: own, before) if before.strip() else own
    if description != before:
        client.update_model_version(registered, version, description)


def record_evaluation(client: MlflowClient, registered: str, version: str, digest: str) -> None:
    """That transformers answered the evaluation with a version's prefix, a file of this SHA-256."""
    what = f"the evaluation of its run, by {installed('transformers')}"
    client.set_model_version_tag(registered, version, _PREFIX, digest)
    client.set_model_version_tag(registered, version, f"{_CHECKED}transformers", what)
    describe_version(client, registered, version)


def record_check(params: Params, names: Iterable[str], engine: str, found: str) -> None:
    """What was found of an engine before it answered with prefixes, or a file of them was written.

    `names` are variants and imported adapters. It is told of the versions of the registered model
    that have these very prefixes, whatever their aliases name by now; a prefix that no version has
    is passed over. A store that is out of reach is a warning, and none is made.
    """
    if not (os.environ.get("MLFLOW_TRACKING_URI") or Path("mlflow.db").exists()):
        return
    prepare()
    registered = params.mlflow.model_name
    # A line of the description each.
    what = " ".join(found.split())[:5000]
    try:
        client = MlflowClient()
        for digest in filter(None, (_sha256_of(params, name) for name in names)):
            for known in client.search_model_versions(f"tags.{_PREFIX} = '{digest}'"):
                if known.name == registered:
                    tag = f"{_CHECKED}{engine}"
                    client.set_model_version_tag(registered, known.version, tag, what)
                    describe_version(client, registered, known.version)
    except Exception as error:  # a server's own come through, too
        print(
            f"warning: MLflow could not be told what was checked with {engine} ({told(error)})",
            file=sys.stderr,
        )


def _sha256_of(params: Params, name: str) -> str | None:
    """The SHA-256 of a prefix as it is registered; None for one that is not there."""
    baseline = params.baselines.get(name)
    if baseline is not None and baseline.is_variant:
        with adapter_prefix(Path(baseline.path)) as prefix:
            return sha256(prefix)
    path = paths.TRAIN / name / "prefix.safetensors"
    return sha256(path) if path.exists() else None
