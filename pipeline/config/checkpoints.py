"""Saving a training on the way: the `checkpoints` section."""

from pipeline.schema.section import Count, Section


class CheckpointParams(Section):
    """How often a training is saved, to go on from there after an interruption.

    A section of its own, which no stage of DVC's reads: it cannot change what a training gives.
    """

    every_steps: Count | None = 20
