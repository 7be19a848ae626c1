"""One sweep from start to end."""

from collections.abc import Callable

from dvc.exceptions import DvcException

from pipeline.errors import PipelineError
from pipeline.orchestration.outcome import Outcome
from pipeline.orchestration.plan import Plan
from pipeline.orchestration.pool import Pool
from pipeline.orchestration.repository import Repository, told_by_dvc
from pipeline.orchestration.scheduler import Scheduler
from pipeline.orchestration.shown import Shown
from pipeline.orchestration.stopping import stoppable

_READ_ALL = frozenset(("inspect", "report"))
"""The stages that read what all variants and baselines left."""


def run_sweep(
    targets: tuple[str, ...],
    open_pool: Callable[[], Pool],
    workers: int,
    *,
    force: bool = False,
    together: int = 1,
    same_seed: bool = False,
    remove_unlisted: Callable[[], None] = lambda: None,
) -> Outcome:
    """Run what `dvc repro` would run of targets (none: all) by the workers of a pool.

    `workers` is their number; `together` the most trainings that one of them does at once, with
    `same_seed` of one seed alone.
    `remove_unlisted` removes outputs of what params.yaml no longer lists: called before anything is
    hashed, where the plan has a stage that reads those of all.

    Raises:
        PipelineError: when a stage failed, or DVC is busy with what a stage would write.
        StoppedError: after a signal.
    """
    try:
        repository = Repository()
        with (
            repository.open(targets, force) as plan,
            repository.busy(plan),
            stoppable() as asked,
            Shown(plan.stages, workers) as show,
        ):
            if not _READ_ALL.isdisjoint(plan.stages):
                # They would remove it of their own inputs, whose hashes are known by then.
                remove_unlisted()
            scheduler = Scheduler(repository, plan, open_pool, asked, show, together, same_seed)
            outcome = scheduler.run()
    except DvcException as error:
        raise PipelineError(told_by_dvc(error)) from error
    outcome.raise_for(len(plan.stages), asked.signal_number)
    return outcome


def would_run(targets: tuple[str, ...], force: bool) -> list[str]:
    """The stages that have changed, or need one that has, in the order of `dvc repro`.

    One that needs another may turn out not to have changed, once that one has run.
    """
    try:
        repository = Repository()
        with repository.open(targets, force) as plan, repository.held():
            return _changed(repository, plan)
    except DvcException as error:
        raise PipelineError(told_by_dvc(error)) from error


def _changed(repository: Repository, plan: Plan) -> list[str]:
    changed: list[str] = []
    for name, stage in plan.stages.items():
        needs_changed = not plan.upstream[name].isdisjoint(changed)
        if plan.force or needs_changed or repository.is_changed(stage):
            changed.append(name)
    return changed
