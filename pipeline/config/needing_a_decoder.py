"""What does not go with `task.type`: parts of an encoder, and what a decoder alone has."""

from collections.abc import Mapping

from pipeline.config.baselines import UntrainedBaselines
from pipeline.config.library import LibraryParams
from pipeline.config.prefix import PrefixParams
from pipeline.config.sweep import SweepParams
from pipeline.config.task import TaskParams
from pipeline.config.trained_baselines import TrainedBaselines
from pipeline.initialization.start import Start


def refuse_what_needs_a_decoder(
    task: TaskParams,
    prefix: PrefixParams,
    sweep: SweepParams,
    starts: Mapping[str, Start],
    baselines: UntrainedBaselines,
    trained_baselines: TrainedBaselines,
) -> None:
    """Raise ValueError for what `task.type` has not; `starts` are those that are made."""
    kind = task.type
    if kind == "causal_lm" and prefix.parts not in (None, ["decoder"]):
        raise ValueError(
            f"prefix.parts: {prefix.parts} needs a model with an encoder, which "
            "task.type: causal_lm has not; use null, or another task.type"
        )
    if kind == "causal_lm":
        return
    for name, baseline in baselines.items():
        if baseline.needs_causal_lm:
            raise ValueError(
                f"baselines.{name}: {baseline.type} needs task.type: causal_lm; leave it out"
            )
    for name, trained in trained_baselines.items():
        if trained.needs_causal_lm:
            raise ValueError(
                f"trained_baselines.{name}: {trained.type} needs task.type: causal_lm; leave it out"
            )
    if sweep.in_context:
        raise ValueError(
            f"sweep.in_context: '{sweep.in_context[0]}' in the context needs task.type: "
            "causal_lm; set it to []"
        )
    for name, start in starts.items():
        if start.needs_causal_lm:
            raise ValueError(f"initializations.{name}: {start.type} needs task.type: causal_lm")


def refuse_other_prefixes(task: TaskParams, prefix: PrefixParams, library: LibraryParams) -> None:
    """Raise ValueError for prefixes that are to stand together where there is an encoder."""
    if task.type == "causal_lm":
        return
    if prefix.distractors.count:
        raise ValueError(
            f"prefix.distractors.count: {prefix.distractors.count} needs a decoder alone, and "
            f"task.type is {task.type}; set it to 0"
        )
    if library.documents:
        raise ValueError(
            f"library.documents: need a decoder alone, and task.type is {task.type}; "
            "leave library out"
        )
