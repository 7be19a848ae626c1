"""What DVC does around each stage of `dvc repro`, a stage at a time and in any order.

The functions are DVC's own, called in its order: ask whether a stage has changed, remove its
outputs, look for them in the run-cache, and after the run hash, cache and record them.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo import Repo
from dvc.rwlock import rwlock
from dvc.stage import PipelineStage, Stage
from dvc.stage.cache import RunCacheNotFoundError

from pipeline.errors import PipelineError
from pipeline.orchestration.plan import Plan, plan_of
from pipeline.orchestration.remembering import Remembered


class Repository:
    """The DVC repository of the working folder."""

    def __init__(self) -> None:
        # One bar is the sweep's.
        logging.getLogger("dvc.progress").setLevel(logging.CRITICAL)
        self._repo = Repo()
        self._remembered = Remembered()

    @property
    def lock_path(self) -> Path:
        """The lock file beside dvc.yaml."""
        return Path(self._repo.root_dir, "dvc.lock")

    @contextmanager
    def open(self, targets: tuple[str, ...], force: bool) -> Iterator[Plan]:
        """Yield what there is to run; afterwards git knows of dvc.lock as after `dvc repro`."""
        try:
            with self._repo.scm_context():
                with self.held():
                    plan = plan_of(self._repo, targets, force)
                for stage in plan.stages.values():
                    self._remembered.attach(stage)
                yield plan
        finally:
            self._repo.close()

    @contextmanager
    def busy(self, plan: Plan) -> Iterator[None]:
        """Tell DVC's other commands which files are written and read, as `dvc repro` does.

        One of them that would write or read what a stage writes says so and ends.
        """
        root = Path(self._repo.root_dir)
        stages = plan.stages.values()
        outs = {Path(out.fs_path) for stage in stages for out in stage.outs}
        # Folders of many outputs in their place: DVC compares each path with each.
        write = {root / Path(*out.relative_to(root).parts[:2]) for out in outs}
        deps = {Path(dep.fs_path) for stage in stages for dep in stage.deps}
        read = {dep for dep in deps if not any(dep.is_relative_to(folder) for folder in write)}
        # A folder of data as a whole is read by stages of this plan alone.
        read = {dep for dep in read if not any(folder.is_relative_to(dep) for folder in write)}
        hardlink = self._repo.config["core"].get("hardlink_lock", False)
        with rwlock(
            self._repo.tmp_dir,
            self._repo.fs,
            " ".join(sys.argv),
            sorted(map(str, read)),
            sorted(map(str, write)),
            hardlink,
        ):
            yield

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold DVC's lock, between the runs of stages; wait while another command has it."""
        self._wait_for_lock()
        try:
            yield
        finally:
            self._repo.lock.unlock()

    def _wait_for_lock(self) -> None:
        told = False
        while True:
            try:
                self._repo.lock.lock()
                return
            except LockError:
                if not told:
                    print("waiting: another DVC command is at work here", file=sys.stderr)
                told = True

    def is_changed(self, stage: Stage) -> bool:
        """Whether `dvc repro` would run a stage, all before which is done."""
        reads = not stage.frozen and (
            stage.is_callback or stage.always_changed or any(dep.status() for dep in stage.deps)
        )
        return bool(stage.changed_stage() or reads or any(out.status() for out in stage.outs))

    def begin(self, stage: PipelineStage, force: bool) -> bool:
        """Remove a stage's outputs before it runs; returns whether the run-cache had them."""
        self.remove_outs(stage)
        if not force:
            try:
                self._repo.stage_cache.restore(stage)
            except RunCacheNotFoundError:
                pass
            else:
                self.finish(stage)
                return True
        stage.save_deps()
        return False

    def remove_outs(self, stage: PipelineStage) -> None:
        """Remove what a run is to write anew."""
        for out in stage.outs:
            if out.persist:
                out.unprotect()
            else:
                out.remove()

    def finish(self, stage: PipelineStage) -> None:
        """Take over what a stage wrote. Raises PipelineError where params.yaml was edited since."""
        for dep in stage.params:
            if dep.status():
                raise PipelineError(
                    f"{dep} was edited while it ran; run `python -m pipeline sweep` again"
                )
        stage.save(run_cache=all(o.use_cache or o.is_metric or o.is_plot for o in stage.outs))
        for out in stage.outs:
            out.commit()

    def run_by_dvc(self, stage: Stage, force: bool) -> None:
        """Run what is no command of this project (a data file, a command of another program)."""
        # DVC lets go of its lock while a command runs, and takes it again.
        stage.reproduce(force=force)
        if not self.is_own(stage):
            stage.dump(update_pipeline=False)

    def is_own(self, stage: Stage) -> bool:
        """Whether a stage stands in the dvc.yaml of the repository, and in its lock file."""
        own = Path(self._repo.root_dir, "dvc.yaml")
        return isinstance(stage, PipelineStage) and Path(stage.path) == own


def told_by_dvc(error: DvcException) -> str:
    """What DVC says, with its causes, on one line."""
    parts: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        parts.append(" ".join(str(cause).split()))
        cause = cause.__cause__
    return ": ".join(dict.fromkeys(filter(None, parts)))
