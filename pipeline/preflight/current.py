"""Whether stages are up to date with params.yaml, by what DVC recorded of their last runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pipeline.config.load import read_yaml
from pipeline.workspace import paths

_LOCK = Path("dvc.lock")


@dataclass(frozen=True)
class LastRuns:
    """The stages of `dvc.lock`, and params.yaml as it is today; each is read once."""

    stages: dict[str, Any]
    params: dict[str, Any]

    @classmethod
    def read(cls) -> Self:
        """Read both; without `dvc.lock` nothing has run."""
        lock = read_yaml(_LOCK) if _LOCK.exists() else {}
        return cls(lock.get("stages", {}), read_yaml(paths.PARAMS))

    def is_current(self, stage: str) -> bool:
        """Whether a stage's outputs are there and were made with today's values of its params.

        `stage` is named as `dvc.lock` names it, for example `kv_prefix@random`. No file of data is
        read: an edited one is DVC's to notice.
        """
        entry = self.stages.get(stage)
        if entry is None:
            return False
        recorded = entry.get("params", {}).get(str(paths.PARAMS), {})
        return all(_at(self.params, key) == value for key, value in recorded.items()) and all(
            Path(out["path"]).exists() for out in entry.get("outs", ())
        )


def _at(params: Any, key: str) -> Any:
    """The value of a dotted key as DVC writes it; None where there is none."""
    for part in key.split("."):
        params = params.get(part) if isinstance(params, dict) else None
    return params
