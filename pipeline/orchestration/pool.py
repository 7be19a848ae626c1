"""What runs tasks: processes of this machine, or workers of a cluster."""

from typing import Protocol

from pipeline.orchestration.task import Ended, Task


class Pool(Protocol):
    """Workers that stay alive from task to task."""

    def submit(self, task: Task) -> None:
        """Give a task to a worker that waits for one; `free` says whether there is any."""

    def wait(self) -> Ended:
        """Block until a task that was submitted has ended, and return it."""

    def free(self) -> int:
        """The number of workers that wait for work."""

    def stop(self) -> None:
        """Ask those at work to end soon, a training after the step at hand; `wait` tells of each.

        Called from a handler of signals.
        """

    def close(self) -> None:
        """End all workers, those at work too."""
