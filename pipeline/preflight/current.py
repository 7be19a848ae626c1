"""Whether a stage is up to date with params.yaml, by what DVC recorded of its last run."""

from functools import cache
from pathlib import Path
from typing import Any

from pipeline.config.load import read_yaml
from pipeline.workspace import paths


def is_current(stage: str) -> bool:
    """Whether a stage's outputs are there and were made with today's values of its params.

    `stage` is named as `dvc.lock` names it, for example `kv_prefix@random`. Costs milliseconds:
    no file of data is read, so that an edited one is DVC's to notice.
    """
    entry = _recorded().get(stage)
    if entry is None:
        return False
    today = read_yaml(paths.PARAMS)
    recorded = entry.get("params", {}).get(str(paths.PARAMS), {})
    return all(_at(today, key) == value for key, value in recorded.items()) and all(
        Path(out["path"]).exists() for out in entry.get("outs", ())
    )


def _at(params: Any, key: str) -> Any:
    """The value of a dotted key as DVC writes it; None where there is none."""
    for part in key.split("."):
        params = params.get(part) if isinstance(params, dict) else None
    return params


@cache
def _read(path: Path, modified: int) -> dict[str, Any]:
    return dict(read_yaml(path).get("stages", {}))


def _recorded() -> dict[str, Any]:
    lock = Path("dvc.lock").absolute()
    return _read(lock, lock.stat().st_mtime_ns) if lock.exists() else {}
