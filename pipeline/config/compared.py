"""Baselines against the initialisations, the task and each other."""

from collections.abc import Mapping
from pathlib import Path

from pipeline.baselines.untrained_start import UntrainedStart
from pipeline.config.baselines import UntrainedBaselines
from pipeline.config.initializations import Initializations
from pipeline.config.sweep import SweepParams
from pipeline.config.task import TaskParams
from pipeline.config.trained_baselines import TrainedBaselines
from pipeline.schema.placing import Placed
from pipeline.workspace import paths


def refuse_impossible_texts(
    sweep: SweepParams, initializations: Initializations, baselines: UntrainedBaselines
) -> None:
    """Raise ValueError for texts in the context that an initialisation has not, or taken names."""
    known = [name for name, start in initializations.items() if start.stands_in_context]
    for name in sweep.in_context:
        if name not in known:
            raise ValueError(
                f"sweep.in_context: '{name}' is not an initialisation whose text can stand in "
                f"the context; use one of: {', '.join(known) or 'none is defined'}"
            )
    for name in sweep.in_context:
        if f"in_context_{name}" in baselines:
            raise ValueError(
                f"baselines.in_context_{name}: sweep.in_context gives rows of this name; rename it"
            )


def refuse_twice_named(
    sweep: SweepParams, baselines: UntrainedBaselines, trained: Mapping[str, object]
) -> None:
    """Raise ValueError for a trained baseline that is called as another baseline is."""
    for name in trained:
        if name in {*baselines, *(f"in_context_{n}" for n in sweep.in_context)}:
            raise ValueError(
                f"trained_baselines.{name}: another baseline has this name; rename one of them"
            )


def refuse_unknown_starts(
    baselines: UntrainedBaselines, initializations: Initializations, cached_tokens: int
) -> None:
    """Raise ValueError for a start of no initialisation, or longer than one can be.

    `cached_tokens` is `kv_prefix.max_length`.
    """
    for name, baseline in baselines.items():
        if not isinstance(baseline, UntrainedStart):
            continue
        known = {f"{paths.KV_PREFIX}/{each}": start for each, start in initializations.items()}
        start = known.get(Path(baseline.path).as_posix())
        if start is None:
            raise ValueError(
                f"baselines.{name}.path: '{baseline.path}' is not what an initialisation starts "
                f"from; use one of: {', '.join(known)}"
            )
        try:
            start.check_lengths(baseline.initialization, baseline.length, cached_tokens)
        except ValueError as error:
            raise ValueError(f"baselines.{name}.length is too much: {error}") from error


def refuse_unknown_beginnings(
    trained: TrainedBaselines, initializations: Initializations, cached_tokens: int
) -> None:
    """Raise ValueError for a trained baseline's prefix that no initialisation can start.

    `cached_tokens` is `kv_prefix.max_length`.
    """
    for name, baseline in trained.items():
        if (beginning := baseline.begins_from) is None:
            continue
        start = initializations.get(beginning.initialization)
        if start is None:
            raise ValueError(
                f"trained_baselines.{name}.initialization: '{beginning.initialization}' is not "
                "defined under initializations; define it there or use one of: "
                f"{', '.join(initializations)}"
            )
        try:
            start.check_lengths(beginning.initialization, beginning.length, cached_tokens)
        except ValueError as error:
            raise ValueError(f"trained_baselines.{name}.length is too much: {error}") from error


def refuse_misplaced_texts(baselines: UntrainedBaselines, task: TaskParams) -> None:
    """Raise ValueError for a text as the system's turn where there are no turns."""
    for name, baseline in baselines.items():
        is_turn = isinstance(baseline, Placed) and baseline.role == "system"
        if is_turn and not task.use_chat_template:
            raise ValueError(
                f"baselines.{name}.role: system is a turn of a chat, which needs "
                "task.use_chat_template: true; use role: user"
            )
