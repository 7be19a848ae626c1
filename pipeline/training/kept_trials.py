"""What a search of the learning rate has found so far, beside the training's checkpoint.

A JSON file, written anew after each trial, so that a search that was killed loses one at the most.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.storage.records import read_json, write_json
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.halving import Trial
from pipeline.workspace.checkpoints import TRIALS


@dataclass(frozen=True)
class KeptTrials:
    """Those of one training; without a `path` none are kept."""

    path: Path | None
    digest: str = ""

    @classmethod
    def beside(cls, checkpoints: CheckpointFolder | None) -> "KeptTrials":
        """Where checkpoints are kept, there."""
        if checkpoints is None or checkpoints.every_steps is None:
            return cls(None)
        return cls(checkpoints.folder / TRIALS, checkpoints.digest)

    def read(self) -> list[Trial]:
        """The trials of this very training that an earlier process kept, in their order."""
        if self.path is None or not self.path.exists():
            return []
        try:
            found = read_json(self.path)
            if found["digest"] == self.digest:
                # Python's JSON has a word for an infinite loss.
                return [Trial(**trial) for trial in found["trials"]]
        except (PipelineError, KeyError, TypeError):
            pass
        print(f"{self.path}: is damaged or of another training; the search starts again")
        return []

    def write(self, trials: Sequence[Trial]) -> None:
        """Keep all trials so far; a disk that refuses is worth a warning."""
        if self.path is None:
            return
        entry = {"digest": self.digest, "trials": [asdict(trial) for trial in trials]}
        try:
            write_json(self.path, entry)
        except OSError as error:
            print(f"warning: no trial kept ({error}); the search goes on without")
