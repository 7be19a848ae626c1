"""Whether stages are up to date with params.yaml, by what DVC recorded of their last runs."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Self

from pipeline.config.load import read_yaml
from pipeline.standing.lock_file import stages_of
from pipeline.workspace import paths

_LOCK = Path("dvc.lock")

# Of a larger one its size alone is looked at: an estimate is not worth reading gigabytes for.
_LARGEST_READ = 64 * 2**20  # bytes


@dataclass(frozen=True)
class LastRuns:
    """The stages of `dvc.lock`, and params.yaml as it is today; each is read once."""

    stages: Mapping[str, Any]
    params: dict[str, Any]
    _known: dict[str, bool] = field(default_factory=dict, repr=False, compare=False)
    _read: dict[tuple[str, str | None], bool] = field(
        default_factory=dict, repr=False, compare=False
    )
    _hashes: dict[Path, str] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def read(cls) -> Self:
        """Read both; without `dvc.lock` nothing has run."""
        stages = _stages_of(*_state(_LOCK)) if _LOCK.exists() else {}
        return cls(stages, _params_of(*_state(paths.PARAMS)))

    @cached_property
    def _made(self) -> dict[str, tuple[str, str | None]]:
        """Which stage makes which output, and what it made last."""
        return {
            out["path"]: (stage, out.get("md5"))
            for stage, entry in self.stages.items()
            for out in entry.get("outs", ())
        }

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

    def is_up_to_date(self, stage: str) -> bool:
        """Whether `dvc repro` will leave a stage alone, which `dvc status` takes seconds to tell.

        The stage is current, what it reads of other stages is what they made last, those stages are
        up to date themselves, and files of no stage (code, texts) are what it read. Outputs are not
        read: what a person edited there is DVC's to notice.
        """
        if stage not in self._known:
            self._known[stage] = False  # a circle, which DVC refuses, ends here
            self._known[stage] = self.is_current(stage) and all(
                self._is_as_read(dep) for dep in self.stages[stage].get("deps", ())
            )
        return self._known[stage]

    def _is_as_read(self, dep: dict[str, Any]) -> bool:
        path = dep["path"]
        if path in self._made:
            stage, md5 = self._made[path]
            return md5 == dep.get("md5") and self.is_up_to_date(stage)
        # A file that many stages read is looked at once, in each state that they read it in.
        key = (path, dep.get("md5"))
        if key not in self._read:
            self._read[key] = self._is_as_recorded(Path(path), dep)
        return self._read[key]

    def _is_as_recorded(self, path: Path, dep: dict[str, Any]) -> bool:
        # A file within a stage's output, as data/raw/train.jsonl.
        above = [self._made[str(p)][0] for p in path.parents if str(p) in self._made]
        if not all(self.is_up_to_date(stage) for stage in above):
            return False
        # What is not here is as it was, as `--allow-missing` has it; without that DVC stops at it.
        if not path.exists():
            return True
        if dep.get("size", 0) > _LARGEST_READ:
            return _size(path) == dep["size"]
        if path not in self._hashes:
            self._hashes[path] = _md5(path)
        return self._hashes[path] == dep.get("md5")


@lru_cache(maxsize=1)
def _stages_of(lock: Path, *state: int) -> Mapping[str, Any]:
    """The stages of a lock file as long as it is in the state that it was in."""
    return stages_of(lock)


@lru_cache(maxsize=1)
def _params_of(params: Path, *state: int) -> dict[str, Any]:
    """A params file, likewise; nobody writes to what is returned."""
    return read_yaml(params)


def _state(path: Path) -> tuple[Path, int, int, int]:
    """A file, and what differs once it was written again."""
    found = path.stat()
    return path.resolve(), found.st_mtime_ns, found.st_size, found.st_ino


def _files(folder: Path) -> Iterable[Path]:
    """What DVC sees in a folder: .dvcignore names __pycache__."""
    return (p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)


def _size(path: Path) -> int:
    return sum(p.stat().st_size for p in (_files(path) if path.is_dir() else [path]))


def _md5(path: Path) -> str:
    """The hash that DVC records of a file, or of a folder by its files' names and hashes."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()
    listed = sorted((p.relative_to(path).as_posix(), p) for p in _files(path))
    tree = [{"md5": _md5(p), "relpath": name} for name, p in listed]
    return hashlib.md5(json.dumps(tree, sort_keys=True).encode()).hexdigest() + ".dir"


def _at(params: Any, key: str) -> Any:
    """The value of a dotted key as DVC writes it; None where there is none."""
    for part in key.split("."):
        params = params.get(part) if isinstance(params, dict) else None
    return params
