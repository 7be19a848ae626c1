"""How the comparison is shown: the `report` section."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from pipeline.metrics.table import METRICS, names_of
from pipeline.schema.section import Section

if TYPE_CHECKING:
    MetricName = str
else:
    MetricName = Literal[names_of()]


class ReportParams(Section):
    """The summary table, its statistics, and the plots."""

    sort_by: MetricName = "loss"
    split: Literal["validation", "test", "test_unseen"] = "test"
    resamples: Annotated[int, Field(ge=100)] = 1000
    seed: Annotated[int, Field(ge=0)] = 0
    dpi: Annotated[int, Field(ge=50, le=600)] = 120

    @property
    def chosen_by(self) -> str:
        """The column of its tables that the best are chosen by, and that they are sorted by."""
        return f"validation_{self.sort_by}"

    @property
    def judged_by(self) -> str:
        """The column of its tables that says how good they are."""
        return f"{self.split}_{self.sort_by}"

    @property
    def ascending(self) -> bool:
        """Whether less of it is better."""
        return not METRICS[self.sort_by].higher_is_better
