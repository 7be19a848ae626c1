"""`python -m pipeline sweep`: all that has changed, several stages at once."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from pipeline.cli.names import complete_stages
from pipeline.config import Params, load_params
from pipeline.preflight.files import check_files

if TYPE_CHECKING:
    from pipeline.orchestration.pool import Pool


@click.command()
@click.argument("targets", nargs=-1, shell_complete=complete_stages)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Processes that run stages, each on GPUs of its own where there are any: one, or those "
    "that a stage uses by params.yaml.  [default: as many as have their GPUs; without any 2, where "
    "there are cores and memory for both]",
)
@click.option(
    "--address",
    metavar="ADDRESS",
    help="Run on the machines of a Ray cluster: auto, HOST:PORT of its head, or ray://HOST:PORT. "
    "Needs the extra `ray`.",
)
@click.option(
    "--gpus-per-worker",
    type=click.FloatRange(min=0),
    metavar="GPUS",
    help="Of the cluster's, for each worker: 0.5 lets two share one.  "
    "[default: those that a stage uses, mostly 1, where there are any]",
)
@click.option(
    "--together",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Train up to N variants at once in one batch. Faster where memory allows; results differ "
    "from those of each alone by rounding.",
)
@click.option("--force", is_flag=True, help="Run all stages, changed or not.")
@click.option("--dry", is_flag=True, help="Only list what would run.")
def sweep(
    targets: tuple[str, ...],
    workers: int | None,
    address: str | None,
    gpus_per_worker: float | None,
    together: int,
    force: bool,
    dry: bool,
) -> None:
    """Run what `dvc repro` would run, several stages at once.

    Each stage of dvc.yaml (of TARGETS and what they need; default: all) runs as soon as those that
    it needs are done, by worker processes that keep what they share: libraries, the frozen model,
    compiled kernels. Outputs go through DVC's cache and run-cache; afterwards dvc.lock is that of
    `dvc repro`, which then finds nothing to do.

    A stage that fails costs only those that need it. A worker that is killed is replaced, and its
    training goes on from the last checkpoint; so does a sweep after Ctrl-C.

    With --address the workers are those of a Ray cluster, each with its share of CPUs and GPUs.
    Machines that do not see this folder fetch and send what stages read and write through the
    project's default DVC remote.

    \b
    python -m pipeline sweep --workers 2
    python -m pipeline sweep --workers 16 --address auto
    python -m pipeline sweep train --together 8
    python -m pipeline sweep --dry evaluate@8-random-0
    """
    if gpus_per_worker is not None and address is None:
        raise click.UsageError("--gpus-per-worker is for a Ray cluster; give its --address too.")
    params = load_params()
    if together > 1 and params.hardware.processes != 1:
        raise click.UsageError(
            "--together trains several variants in one process, and hardware.processes: "
            f"{params.hardware.processes} one variant in several; leave out --together, or set "
            "hardware.processes to 1."
        )
    check_files(params)
    from pipeline.orchestration.sweep import run_sweep, would_run
    from pipeline.sweep.unlisted import remove_unlisted

    if dry:
        click.echo("\n".join(would_run(targets, force)) or "nothing would run")
        return
    if address is None:
        workplace = _here(workers, params)
    else:
        workplace = _on(address, workers, gpus_per_worker, params)
    with workplace as (open_pool, count):
        outcome = run_sweep(
            targets,
            open_pool,
            count,
            force=force,
            together=together,
            same_seed=params.task.is_classification,
            remove_unlisted=lambda: remove_unlisted(params),
        )
    click.echo(outcome.sentence())


Workplace = tuple[Callable[[], "Pool"], int]
"""How to start the workers, and how many they are."""


@contextmanager
def _here(workers: int | None, params: Params) -> Iterator[Workplace]:
    from pipeline.orchestration.cores import Room, workers_on_cores
    from pipeline.orchestration.gpus import gpus_of_stage, shared_out, visible_gpus
    from pipeline.orchestration.local_pool import LocalPool
    from pipeline.workspace import paths

    gpus = shared_out(visible_gpus(), gpus_of_stage(params), workers)
    count = workers or len(gpus) or workers_on_cores(params)

    def open_pool() -> "Pool":
        if workers is None and not gpus:
            return LocalPool(count, room=Room(count, paths.MODEL))
        if count > 1 and not gpus and "OMP_NUM_THREADS" not in os.environ:
            click.echo(_threads(count), err=True)
        return LocalPool(count, gpus)

    yield open_pool, count


@contextmanager
def _on(
    address: str, workers: int | None, gpus_per_worker: float | None, params: Params
) -> Iterator[Workplace]:
    from pipeline.orchestration.gpus import gpus_of_stage
    from pipeline.orchestration.ray_cluster import connected, default_workers, gpus_for
    from pipeline.orchestration.ray_pool import RayPool

    with connected(address) as ray:
        gpus = gpus_per_worker
        if gpus is None:
            gpus = gpus_for(ray.nodes(), gpus_of_stage(params))
        count = workers or default_workers(ray.nodes(), gpus)

        def open_pool() -> "Pool":
            pool = RayPool(ray, count, gpus)
            if not pool.has_gpus and "OMP_NUM_THREADS" not in os.environ:
                click.echo(
                    "note: each worker computes with as many threads as its machine has cores; "
                    "with OMP_NUM_THREADS for this and for `dvc repro` they share it",
                    err=True,
                )
            return pool

        yield open_pool, count


def _threads(workers: int) -> str:
    cores = os.cpu_count() or 1
    return (
        f"note: {workers} workers compute with {cores} threads each, as `dvc repro` does, since "
        "last bits may go by that number; with OMP_NUM_THREADS="
        f"{max(1, cores // workers)} for both they do not get in each other's way"
    )
