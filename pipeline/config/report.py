"""How the comparison is shown: the `report` section."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.evaluate import LabelMetric, TextMetric
from pipeline.schema.section import Section


class ReportParams(Section):
    """The summary table, its statistics, and the plots."""

    sort_by: Literal["loss", "perplexity", TextMetric, LabelMetric] = "loss"
    split: Literal["validation", "test", "test_unseen"] = "test"
    resamples: Annotated[int, Field(ge=100)] = 1000
    seed: Annotated[int, Field(ge=0)] = 0
    dpi: Annotated[int, Field(ge=50, le=600)] = 120
