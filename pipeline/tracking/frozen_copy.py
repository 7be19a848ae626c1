"""That an MLflow model, which holds no copy of the frozen model, runs on the same one."""

import hashlib
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.workspace.checksums import sha256_of


def frozen_model_sha256(folder: Path) -> str:
    """A checksum over names and contents of a model folder's files."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file():
            digest.update(path.name.encode())
            digest.update(bytes.fromhex(sha256_of(path)))
    return digest.hexdigest()


def check_frozen_model(folder: Path, sha256: str) -> None:
    """Raise PipelineError when there is no model in `folder`, or another than the one meant."""
    fix = (
        "name it by the environment variable FROZEN_MODEL, or by "
        'mlflow.pyfunc.load_model(..., model_config={"frozen_model": "<folder>"})'
    )
    if not (folder / "config.json").exists():
        raise PipelineError(f"{folder}: the frozen model of this prefix is not here; {fix}")
    if frozen_model_sha256(folder) != sha256:
        raise PipelineError(
            f"{folder}: holds another frozen model than the prefix was trained with (its checksum "
            f"differs); {fix}"
        )
