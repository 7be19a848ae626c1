"""Outputs of what params.yaml no longer lists."""

import shutil
from pathlib import Path

from pipeline.config import Params
from pipeline.sweep.grid import all_rows
from pipeline.workspace import paths


def remove_unlisted(params: Params) -> None:
    """Remove outputs of variants, baselines and initialisations that params.yaml no longer lists.

    They lie inside the dependencies of later stages, so that a workspace that once had more of
    them would differ from a fresh clone. DVC's cache keeps them: listing one again restores it.
    """
    compared = {row.name for row in all_rows(params)}
    for folder in (paths.TRAIN, paths.EVALUATE):
        _keep(folder, compared)
    _keep(paths.KV_PREFIX, set(params.initializations))


def _keep(folder: Path, names: set[str]) -> None:
    # Before the first stage there is none.
    for path in sorted(folder.glob("*")):
        if path.is_dir() and path.name not in names:
            shutil.rmtree(path)
