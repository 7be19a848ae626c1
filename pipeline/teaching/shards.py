"""A teacher's predictions on their way: a file a portion of examples, each whole or not there."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from pipeline.standing.stage_code import ROOT, code_of
from pipeline.storage.atomic import atomic_file
from pipeline.workspace import location, paths
from pipeline.workspace.checkpoints import checkpoint_name, held, remove_checkpoints
from pipeline.workspace.checksums import add_file, add_folder

_LIBRARIES = ("torch", "transformers")

Shard = tuple[np.ndarray, np.ndarray]
"""Token ids and log-probabilities of a portion's targets, `[targets, k]` each."""


@dataclass(frozen=True)
class Shards:
    """Where one teacher keeps what it has done, until all of it is.

    `digest` stands for all that determines its predictions: another has a folder of its own.
    """

    name: str
    digest: str

    @property
    def folder(self) -> Path:
        """It outlives a stage that is killed: no output of DVC's."""
        training = f"teacher-{self.name}"
        return location.home() / paths.CHECKPOINTS / checkpoint_name(training, self.digest)

    def load(self, split: str, number: int) -> Shard | None:
        """A portion that was kept; None for one that was not, or is damaged."""
        try:
            with safe_open(self._path(split, number), framework="np") as file:
                return file.get_tensor("ids"), file.get_tensor("log_probs")
        except (OSError, SafetensorError):
            return None

    def keep(self, split: str, number: int, shard: Shard) -> None:
        """Keep a portion. Raises OSError when the disk refuses."""
        ids, log_probs = shard
        content = save({"ids": ids, "log_probs": log_probs})
        with atomic_file(self._path(split, number)) as aside:
            aside.write_bytes(content)

    def remove(self) -> None:
        """All that this teacher kept, of this digest and of others."""
        remove_checkpoints(self.folder.parent, f"teacher-{self.name}")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold them for this process; wait while another, whose stage was killed, is at work."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with held(self.folder, f"is at work on teacher {self.name}; stop it first"):
            yield

    def _path(self, split: str, number: int) -> Path:
        return self.folder / f"{split}-{number}.safetensors"


def digest_of(settings: dict[str, Any], *inputs: Path) -> str:
    """A sha256 over settings (anything JSON can hold), files, the stage's code and libraries."""
    libraries = {name: version(name) for name in _LIBRARIES}
    digest = hashlib.sha256(json.dumps([settings, libraries], sort_keys=True).encode())
    for root in inputs:
        if root.is_dir():
            add_folder(digest, root)
        else:
            add_file(digest, root, Path(root.name))
    for path in code_of("teach"):
        add_file(digest, path, path.relative_to(ROOT))
    return digest.hexdigest()
