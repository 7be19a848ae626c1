"""`python -m pipeline sweep`: all that has changed, several stages at once."""

import os
from typing import TYPE_CHECKING

import click

from pipeline.cli.names import complete_stages
from pipeline.config import load_params
from pipeline.preflight.files import check_files

if TYPE_CHECKING:
    from pipeline.orchestration.pool import Pool


@click.command()
@click.argument("targets", nargs=-1, shell_complete=complete_stages)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Processes that run stages, each on a GPU of its own where there are any.  "
    "[default: the number of GPUs, else 1]",
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
    targets: tuple[str, ...], workers: int | None, together: int, force: bool, dry: bool
) -> None:
    """Run what `dvc repro` would run, several stages at once.

    Each stage of dvc.yaml (of TARGETS and what they need; default: all) runs as soon as those that
    it needs are done, by worker processes that keep what they share: libraries, the frozen model,
    compiled kernels. Outputs go through DVC's cache and run-cache; afterwards dvc.lock is that of
    `dvc repro`, which then finds nothing to do.

    A stage that fails costs only those that need it. A worker that is killed is replaced, and its
    training goes on from the last checkpoint; so does a sweep after Ctrl-C.

    \b
    python -m pipeline sweep --workers 2
    python -m pipeline sweep train --together 8
    python -m pipeline sweep --dry evaluate@8-random-0
    """
    params = load_params()
    check_files(params)
    from pipeline.orchestration.local_pool import LocalPool, visible_gpus
    from pipeline.orchestration.sweep import run_sweep, would_run

    if dry:
        click.echo("\n".join(would_run(targets, force)) or "nothing would run")
        return
    gpus = visible_gpus()
    count = workers or max(1, len(gpus))

    def open_pool() -> "Pool":
        if count > 1 and not gpus and "OMP_NUM_THREADS" not in os.environ:
            click.echo(_threads(count), err=True)
        return LocalPool(count, gpus)

    outcome = run_sweep(
        targets,
        open_pool,
        count,
        force=force,
        together=together,
        same_seed=params.task.is_classification,
    )
    click.echo(outcome.sentence())


def _threads(workers: int) -> str:
    cores = os.cpu_count() or 1
    return (
        f"note: {workers} workers compute with {cores} threads each, as `dvc repro` does, since "
        "last bits may go by that number; with OMP_NUM_THREADS="
        f"{max(1, cores // workers)} for both they do not get in each other's way"
    )
