"""Starting the processes of a training on this machine, by torch's own launcher."""

import logging
import os
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from pipeline.errors import PipelineError

RUN_ID = "pipeline-"
"""What the id of a run begins with that is started here."""

# What `dist.init_process_group` finds the others by; torchrun sets them, and so do others.
_RENDEZVOUS = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# For a signal, so many seconds to end the step at hand and to save it.
_PATIENCE = 120


def is_started() -> bool:
    """Whether this process is one of those that a launcher started."""
    return all(name in os.environ for name in _RENDEZVOUS)


def processes_of(asked: int | Literal["auto"]) -> int:
    """How many processes `hardware.processes` means: with `auto` one a GPU, and 1 without."""
    if asked != "auto":
        return asked
    import torch

    return max(1, torch.cuda.device_count())


def run_in_processes(processes: int, arguments: Sequence[str]) -> None:
    """Run `python -m pipeline` with these arguments in several processes, to their end.

    What they tell they tell themselves. A signal goes on to all of them.

    Raises:
        PipelineError: when one of them was killed.
        SystemExit: with the code of the one that failed first, or for a signal.
    """
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # It reports every end of a process at length, which has told its own.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=f"{RUN_ID}{uuid.uuid4()}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
        shutdown_timeout=_PATIENCE,
    )
    with _cores_shared(processes):
        try:
            elastic_launch(config, sys.executable)("-m", "pipeline", *arguments)
        except SignalException as stopped:
            sys.exit(128 + stopped.sigval)
        except ChildFailedError as failed:
            rank, failure = failed.get_first_failure()
            if failure.exitcode > 0:
                sys.exit(failure.exitcode)
            raise PipelineError(
                f"process {rank} of {processes} was killed ({failure.signal_name()}), and the "
                "others were stopped; `dvc repro` goes on from the last checkpoint"
            ) from failed


@contextmanager
def _cores_shared(processes: int) -> Iterator[None]:
    """Within it processes that are started have equal shares of this machine's cores.

    Unless `OMP_NUM_THREADS` says otherwise: each would take all of them.
    """
    if "OMP_NUM_THREADS" in os.environ:
        yield
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    os.environ["OMP_NUM_THREADS"] = str(max(1, (cores or 1) // processes))
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]
