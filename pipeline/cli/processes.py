"""A training's command in one process or in several, as torchrun or `hardware.processes` say."""

import gc
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pipeline.cli.sweep_progress import sweep_shown
from pipeline.config import Params
from pipeline.distributed.launching import is_started, processes_of, run_in_processes
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from pipeline.distributed.ranks import Ranks

Stage = Callable[[Params, "Ranks"], None]

_IN_PROCESSES = ("train", "train_baseline")
"""The commands that run in several processes."""


def refuse_processes(command: str) -> None:
    """Raise PipelineError where torchrun started several processes for a command that is one.

    Each would write the same files. The first tells of it; the others end as if all were well,
    since the launcher ends all with the first that fails.
    """
    if command in _IN_PROCESSES or not is_started() or os.environ["WORLD_SIZE"] == "1":
        return
    if os.environ["RANK"] != "0":
        sys.exit(0)
    raise PipelineError(
        f"{command} is one process, and this one was started as one of {os.environ['WORLD_SIZE']} "
        f"(torchrun, WORLD_SIZE); run `python -m pipeline {command}` without them: only "
        f"{' and '.join(_IN_PROCESSES)} run in several"
    )


def run_training(stage: Stage, arguments: Sequence[str], read: Callable[[], Params]) -> None:
    """Run a stage that trains: here, or in processes that run `python -m pipeline` alike.

    `arguments` are those of this very command, its name first; `read` gives the checked params.
    Where torchrun started this process, it is one of several; else `hardware.processes` says how
    many are started.
    """
    if is_started():
        from pipeline.distributed.devices import refuse_shared_device, refuse_spread_model
        from pipeline.distributed.joining import joined

        with joined() as ranks:
            params = read()
            refuse_shared_device(params.train.device, ranks)
            refuse_spread_model(params.device_map, ranks)
            if ranks.is_first:
                with sweep_shown(params):
                    stage(params, ranks)
            else:
                stage(params, ranks)
        return
    params = read()
    processes = processes_of(params.hardware.processes)
    if processes > 1:
        _make_room()
        run_in_processes(processes, arguments)
        return
    with sweep_shown(params):
        from pipeline.distributed.ranks import ALONE

        stage(params, ALONE)


def _make_room() -> None:
    """Leave the devices to the processes: this one may keep a model of a stage before."""
    import torch

    from pipeline.models.kept import let_go

    let_go()
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
