"""What a picture is drawn from."""

from dataclasses import dataclass

import pandas as pd

from pipeline.metrics.metric import Metric


@dataclass(frozen=True)
class Subject:
    """A metric on a split in the summary table, and the loss curves of the same sweep."""

    table: pd.DataFrame
    curves: pd.DataFrame
    split: str
    metric: Metric

    @property
    def column(self) -> str:
        """The column of the table that holds the metric."""
        return f"{self.split}_{self.metric.name}"

    @property
    def of_whole_split(self) -> pd.DataFrame:
        """The rows that were trained on the whole training split, or not at all."""
        return self.table[~self.table["name"].str.contains(r"-train\d+$")]

    def against(self, what: str) -> str:
        """The picture's heading."""
        return f"{self.split}: {self.metric.label} against {what}"
