"""Which trainings may share a batch: variants of one sweep on all of the training split."""

from dvc.stage import PipelineStage, Stage

_TRAIN = "train@"


def alike(first: PipelineStage, other: Stage) -> bool:
    """Whether two stages train variants that differ in length, start and seed alone."""
    return all(stage.addressing.startswith(_TRAIN) for stage in (first, other))
