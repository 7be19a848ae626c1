"""What a new project has of this one: the code, the graph of its stages, and their libraries."""

import shutil
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from pipeline.errors import PipelineError

PARAMS = "params.yaml"
# In a project, whose own are a person's: the default ones, which another project begins with.
_KEPT = "pipeline/project/params.yaml"
_DEFAULTS = (_KEPT, "params.yaml.before", PARAMS)
_DISTRIBUTION = "prefix-tuning-pipeline"
_PACKAGE = Path(__file__).resolve().parents[1]
_BESIDE = ("dvc.yaml", "requirements.lock", ".dvcignore", ".gitignore", "data/README.md")
_OF_DVC = (".dvc/config", ".dvc/.gitignore", ".dvc/plots/*.json")


def origin() -> Path:
    """The folder that holds dvc.yaml, params.yaml and what belongs to them.

    Of a clone its root; of an installed package where its data were installed. Raises PipelineError
    where neither is there.
    """
    root = _PACKAGE.parent
    if (root / "dvc.yaml").is_file():
        return root
    try:
        installed = files(_DISTRIBUTION) or ()
    except PackageNotFoundError:
        installed = ()
    for path in installed:
        if path.name == "dvc.yaml" and (found := Path(str(path.locate()))).is_file():
            return found.resolve().parent
    raise PipelineError(
        f"there is no dvc.yaml beside {_PACKAGE}, and none was installed with it; install "
        f"{_DISTRIBUTION} again, or run this in a clone of its repository"
    )


def is_project(folder: Path) -> bool:
    """Whether this wrote the folder."""
    return (folder / _KEPT).is_file()


def default_params() -> Path:
    """The params that a project begins with; where an example was put over them, those of before.

    Raises PipelineError where there are none.
    """
    root = origin()
    found = next((root / name for name in _DEFAULTS if (root / name).is_file()), None)
    if found is None:
        raise PipelineError(f"{root / PARAMS}: is missing; get it again from the repository")
    return found


def copy_pipeline(folder: Path) -> None:
    """Write the code, its license, and the files that DVC, git and pip read into `folder`.

    The default params are kept beside the code.
    """
    root = origin()
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(_PACKAGE, folder / "pipeline", ignore=ignored)
    for pattern in (*_BESIDE, *_OF_DVC):
        found = sorted(root.glob(pattern))
        if not found:
            raise PipelineError(f"{root / pattern}: is missing; get it again from the repository")
        for path in found:
            copied = folder / path.relative_to(root)
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copied)
    shutil.copyfile(default_params(), folder / _KEPT)
    if (root / "LICENSE").is_file():
        shutil.copyfile(root / "LICENSE", folder / "pipeline" / "LICENSE")
