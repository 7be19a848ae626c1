"""Which trainings may share a batch: variants of one sweep on all of the training split."""

from dvc.stage import PipelineStage, Stage

from pipeline.orchestration.plan import command_of

_TRAIN = "train@"


def alike(first: PipelineStage, other: Stage, *, same_seed: bool) -> bool:
    """Whether two stages train variants that differ in length, start and seed alone.

    With `same_seed` their seeds must not differ either: a classifier's head is drawn with it.
    """
    if not all(stage.addressing.startswith(_TRAIN) for stage in (first, other)):
        return False
    return not same_seed or _seed(first) == _seed(other)


def _seed(stage: Stage) -> str:
    command = command_of(stage) or ()
    return command[command.index("--seed") + 1] if "--seed" in command else ""
