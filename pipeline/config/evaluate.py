"""The measurement on the test splits: the `evaluate` section."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field

from pipeline.metrics.metric import OfLabels, OfTarget, OfText
from pipeline.metrics.table import names_of
from pipeline.schema.compute import Compute
from pipeline.schema.section import Count, distinct

if TYPE_CHECKING:
    TextMetric = str
else:
    TextMetric = Literal[names_of(OfText)]


class EvaluateParams(Compute):
    """The measurement on the test splits: the loss of the target, and greedy generation."""

    splits: Annotated[list[Literal["validation", "test", "test_unseen"]], Field(min_length=1)]
    # Of the generated text; those of the target are measured in any case. Classifiers write none:
    # they have those of labels whatever is listed here.
    metrics: Annotated[list[TextMetric], AfterValidator(distinct)] = Field(
        default_factory=lambda: list(names_of(OfText))
    )
    max_new_tokens: Count = 32

    def measured(self, of_labels: bool) -> list[str]:
        """What is measured: of the target, then of text, or of a classifier's labels."""
        return [*names_of(OfTarget), *(names_of(OfLabels) if of_labels else self.metrics)]
