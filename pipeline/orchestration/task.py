"""What a worker gets, and what comes back."""

from dataclasses import dataclass
from pathlib import Path

LOGS = Path(".dvc", "tmp", "sweep")
"""What each stage printed; neither git nor DVC sees the folder."""


@dataclass(frozen=True)
class Task:
    """What one worker runs in one go: a stage, or several that it runs together."""

    stages: tuple[str, ...]
    """As dvc.lock names them: `train@8-random-0`."""
    commands: tuple[tuple[str, ...], ...]
    """One for each stage: the arguments after `python -m pipeline`."""

    @property
    def log(self) -> Path:
        """Where its output goes, relative to the repository's root."""
        return LOGS / f"{self.stages[0]}.log"


@dataclass(frozen=True)
class Ended:
    """A task that a worker is done with, whatever became of it."""

    task: Task
    error: str | None = None
    """One sentence; None where all went well."""
    lost: bool = False
    """The worker died under it: it was killed, memory ended, or its machine went away."""
