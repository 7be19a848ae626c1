"""What a training makes smaller: `train.objective`."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from pipeline.schema.alternatives import one_of
from pipeline.schema.section import GivenPath, Name, Section


class TargetObjective(Section):
    """The cross-entropy of the target's tokens; `path` is where the targets are."""

    type: Literal["target"] = "target"
    path: GivenPath = "data/tokenized/splits/train"

    @property
    def distilled(self) -> float:
        """The share of the divergence from a teacher."""
        return 0.0


class DistillationObjective(Section):
    """The divergence from a teacher's predictions at the target's tokens (`pipeline.loss`).

    `weight` is its share; the rest is the target's cross-entropy. `path` is the teacher's folder,
    which DVC watches.
    """

    type: Literal["distillation"]
    teacher: Name
    path: GivenPath
    weight: Annotated[float, Field(gt=0, le=1)] = 1.0

    @property
    def distilled(self) -> float:
        """The share of the divergence from a teacher."""
        return self.weight


if TYPE_CHECKING:
    Objective = TargetObjective | DistillationObjective
else:
    Objective = one_of([TargetObjective, DistillationObjective])
