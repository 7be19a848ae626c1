"""The measurement of what is compared: the `evaluate` section."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field

from pipeline.metrics.metric import OfLabels, OfTarget, OfTeacher, OfText
from pipeline.metrics.table import names_of
from pipeline.schema.compute import Compute
from pipeline.schema.section import Count, GivenPath, distinct

if TYPE_CHECKING:
    TextMetric = str
else:
    TextMetric = Literal[names_of(OfText)]

NO_TEACHER = "data/model/config.json"
"""What `evaluate.teacher` names, for DVC to watch, where there is none."""


class EvaluateParams(Compute):
    """The measurement on validation and the test splits: loss of the target, greedy generation.

    `teacher` is the folder of a teacher's predictions, data/teachers/<name>, from which the
    distance is measured as well; DVC watches it.
    """

    # What is reported; validation, which the best are chosen on, is measured in any case.
    splits: Annotated[
        list[Literal["validation", "test", "test_unseen"]],
        Field(min_length=1),
        AfterValidator(distinct),
    ]
    # Of the generated text; those of the target are measured in any case. Classifiers write none:
    # they have those of labels whatever is listed here.
    metrics: Annotated[list[TextMetric], AfterValidator(distinct)] = Field(
        default_factory=lambda: list(names_of(OfText))
    )
    max_new_tokens: Count = 32
    teacher: GivenPath = NO_TEACHER

    @property
    def taught(self) -> Path | None:
        """The teacher's folder; None where there is none."""
        return None if self.teacher == NO_TEACHER else Path(self.teacher)

    @property
    def measured_splits(self) -> list[str]:
        """The splits that are reported, and validation."""
        return list(dict.fromkeys((*self.splits, "validation")))

    def measured(self, of_labels: bool) -> list[str]:
        """What is measured: of the target, then of text, or of a classifier's labels."""
        of_teacher = () if self.taught is None else names_of(OfTeacher)
        others = names_of(OfLabels) if of_labels else self.metrics
        return [*names_of(OfTarget), *of_teacher, *others]
