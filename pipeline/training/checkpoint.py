"""Training checkpoints: all that the rest of a training depends on, in one file.

A checkpoint is a safetensors file whose metadata holds one JSON object: nothing in it can run code.
It is no output of DVC's; it is kept where the outputs of an interrupted stage are not removed.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from pipeline.prefix import KVPrefix
from pipeline.storage.atomic import atomic_file
from pipeline.training.aside import Aside
from pipeline.training.trained import TrainedWeights
from pipeline.workspace.checkpoints import FILE, held

FORMAT = "training-checkpoint-5"
BEST = "best_prefix.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors, and the numbers and settings that belong to them (anything JSON can hold)."""

    tensors: dict[str, torch.Tensor]
    state: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path, digest: str) -> None:
        """Write it in place of the one before. Raises OSError when the disk refuses."""
        tensors = {name: tensor.detach().cpu() for name, tensor in self.tensors.items()}
        entry = {"digest": digest, "content": _content_sha256(tensors), "state": self.state}
        # In memory first: safetensors reports a full disk as an error of its own.
        content = save(
            {name: tensor.contiguous() for name, tensor in tensors.items()},
            metadata={FORMAT: json.dumps(entry, sort_keys=True)},
        )
        with atomic_file(path) as aside:
            aside.write_bytes(content)

    def apart(self) -> "Checkpoint":
        """The same in memory of its own, on the CPU: a training goes on changing its tensors.

        The best prefix is replaced and never changed.
        """
        tensors = {
            name: tensor if name.startswith("best.") else tensor.detach().to("cpu", copy=True)
            for name, tensor in self.tensors.items()
        }
        # Through JSON, as a file has it: an optimizer's settings change in place, too.
        return Checkpoint(tensors, json.loads(json.dumps(self.state)))

    @classmethod
    def load(cls, path: Path, digest: str) -> "Checkpoint | None":
        """What `save` wrote for a training of the same digest, whole; None for anything else."""
        try:
            with safe_open(path, framework="pt") as file:
                entry = json.loads((file.metadata() or {}).get(FORMAT, "{}"))
                # Copies: what is mapped from a file is neither aligned nor apart from it.
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, ValueError):
            return None
        if entry.get("digest") != digest or entry.get("content") != _content_sha256(tensors):
            return None
        return cls(tensors, entry["state"])


@dataclass(frozen=True)
class CheckpointFolder:
    """Where one training keeps its checkpoints.

    `digest` stands for everything that determines the training; a file of another digest is never
    read. `every_steps` is the number of optimizer steps between two; None keeps none.
    """

    folder: Path
    digest: str
    every_steps: int | None
    _aside: Aside = field(default_factory=Aside, repr=False, compare=False)

    def load(self) -> Checkpoint | None:
        """The last checkpoint of this very training, if there is one."""
        path = self.folder / FILE
        if self.every_steps is None or not path.exists():
            return None
        found = Checkpoint.load(path, self.digest)
        if found is None:
            print(f"{path}: is damaged or of another training; this one starts from its beginning")
        return found

    def is_due(self, step: int) -> bool:
        """Whether to save after this optimizer step."""
        return self.every_steps is not None and step % self.every_steps == 0

    def save(self, checkpoint: Checkpoint) -> bool:
        """Keep a checkpoint; returns whether it is kept.

        A disk that refuses is worth a warning: the training itself can still end well.
        """
        if self.every_steps is None:
            return False
        self.wait()
        return self._write(checkpoint)

    def save_aside(self, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint as it is now, written while the training goes on.

        One is written at a time: while the last one still is, this one is passed over, so that a
        slow disk makes checkpoints rarer and no step longer.
        """
        if self.every_steps is not None and not self._aside.is_busy:
            self._aside.start(partial(self._write, checkpoint.apart()))

    def wait(self) -> None:
        """Return when no checkpoint is being written. Raises what a write raised, but OSError."""
        self._aside.wait()

    def _write(self, checkpoint: Checkpoint) -> bool:
        try:
            checkpoint.save(self.folder / FILE, self.digest)
        except OSError as error:
            print(f"warning: no checkpoint kept ({error}); the training goes on without")
            return False
        return True

    def keep_last_good(self, checkpoint: Checkpoint, prefix: KVPrefix | TrainedWeights) -> str:
        """Keep what a training had come to before its numbers went bad; says where, in words.

        The best prefix is written apart too, as the file that `KVPrefix.load` and the
        initialisation `prefix_file` read.
        """
        if not self.save(checkpoint):
            return "nothing of it was kept"
        prefix.save(self.folder / BEST)
        return f"the best prefix before that is {self.folder / BEST}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold this training for this process; wait while another process has it."""
        with held(self.folder, f"trains {self.folder.name}; stop it to take over"):
            try:
                yield
            finally:
                self.wait()


def _content_sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    """A checksum of every tensor's bytes: safetensors itself checks sizes alone."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
