"""Stage `baseline_start`: what the prefix of a trained baseline starts from, and nothing else.

A stage of DVC's that is there for every trained baseline cannot depend on an initialisation that
one of them names. This one depends on all of them, and leaves each baseline what it names alone: an
edit of another initialisation runs this stage again, which takes seconds, and no training.
"""

from pathlib import Path
from shutil import copytree

from pipeline.config import Params
from pipeline.errors import PipelineError
from pipeline.storage.atomic import atomic_folder
from pipeline.storage.records import write_text
from pipeline.workspace import paths

NONE = "none.txt"
"""The file in the folder of a baseline that trains no prefix."""


def run(params: Params, name: str) -> None:
    """Write data/baseline_start/<name>: a copy of the data/kv_prefix/<initialisation> it names."""
    if name not in params.trained_baselines:
        known = ", ".join(params.trained_baselines) or "none"
        raise PipelineError(
            f"'{name}' is not under trained_baselines of params.yaml; known: {known}"
        )
    beginning = params.trained_baselines[name].begins_from
    with atomic_folder(paths.BASELINE_START / name) as folder:
        if beginning is None:
            write_text(folder / NONE, "It trains no prefix that starts from an initialisation.\n")
            return
        _copy(paths.KV_PREFIX / beginning.initialization, folder)


def _copy(source: Path, target: Path) -> None:
    if not source.exists():
        raise PipelineError(f"{source}: is not there; run `dvc repro kv_prefix@{source.name}`")
    copytree(source, target, dirs_exist_ok=True)
