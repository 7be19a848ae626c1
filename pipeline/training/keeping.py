"""What is kept of a training on its way: where one is due, at a signal, and before it diverges."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from pipeline.errors import DivergedError, StoppedError
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.progress import Progress
from pipeline.training.random_numbers import random_states
from pipeline.training.step import Step


class Keeping:
    """The checkpoints of one training's progress; None keeps none."""

    def __init__(self, checkpoints: CheckpointFolder | None, progress: Progress) -> None:
        self._checkpoints, self._progress = checkpoints, progress

    def save_where_due(self, is_finished: bool) -> None:
        """Save a checkpoint now and then, aside the training, and at the end."""
        checkpoints, progress = self._checkpoints, self._progress
        if checkpoints is None:
            return
        if is_finished:
            checkpoints.save(progress.checkpoint(random_states(progress.model.device)))
        elif checkpoints.is_due(progress.result.step):
            checkpoints.save_aside(progress.checkpoint(random_states(progress.model.device)))

    @contextmanager
    def written(self) -> Iterator[None]:
        """A checkpoint that is begun within it is on the disk when it ends, however that is."""
        try:
            yield
        finally:
            if self._checkpoints is not None:
                self._checkpoints.wait()

    def stop(self, number: int, steps: int) -> NoReturn:
        """Save a checkpoint and raise StoppedError for a signal."""
        checkpoints, progress = self._checkpoints, self._progress
        states = random_states(progress.model.device)
        kept = checkpoints is not None and checkpoints.save(progress.checkpoint(states))
        where = "goes on from there" if kept else "starts this variant again"
        raise StoppedError(
            f"stopped by {signal.Signals(number).name} after step {progress.result.step} of "
            f"{steps}; `dvc repro` {where}",
            number,
        )

    def give_up(self, error: DivergedError, step: Step) -> NoReturn:
        """Keep what there was before a step whose numbers went bad, and raise its error.

        The parameters are still those of the step before.
        """
        if self._checkpoints is None:
            raise error
        last_good = self._progress.checkpoint(step.states)
        kept = self._checkpoints.keep_last_good(last_good, self._progress.result.prefix)
        raise DivergedError(f"{error}; {kept}") from error
