"""Which trainings may share a batch: variants of one sweep on all of the training split."""

from dvc.stage import PipelineStage, Stage

from pipeline.orchestration.plan import command_of

_TOGETHER = ("train", "train_at_rate")
"""The groups of dvc.yaml whose trainings have the same batches."""


def alike(first: PipelineStage, other: Stage, *, same_seed: bool) -> bool:
    """Whether two stages of a group train variants that differ in length, start, seed and rate.

    With `same_seed` their seeds must not differ either: a classifier's head is drawn with it.
    """
    group, _, _ = first.addressing.partition("@")
    if group not in _TOGETHER or not other.addressing.startswith(f"{group}@"):
        return False
    return not same_seed or _seed(first) == _seed(other)


def _seed(stage: Stage) -> str:
    command = command_of(stage) or ()
    return command[command.index("--seed") + 1] if "--seed" in command else ""
