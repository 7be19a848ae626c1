"""What a picture is drawn from."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.comparison.choice import setting_of
from pipeline.comparison.plots.style import number, series_label
from pipeline.comparison.tables import shown_interval
from pipeline.metrics.metric import Metric

Row = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """A metric on a split in the summary table, and the loss curves of the same sweep.

    `table` has a row a run, `seeds` a row a setting, whatever its number of seeds.
    """

    table: pd.DataFrame
    seeds: pd.DataFrame
    curves: pd.DataFrame
    split: str
    metric: Metric

    @property
    def column(self) -> str:
        """The column of the tables that holds the metric."""
        return f"{self.split}_{self.metric.name}"

    @property
    def of_whole_split(self) -> pd.DataFrame:
        """The settings that were trained on the whole training split, or not at all."""
        return self.seeds[~self.seeds["name"].str.contains(r"-train\d+$")]

    @property
    def at_the_rate(self) -> pd.DataFrame:
        """The settings that were trained at `train.learning_rate`, or not at all."""
        return self.seeds[~self.seeds["name"].str.contains(r"-lr[\d.e+-]+$")]

    @property
    def plain(self) -> pd.DataFrame:
        """Those of the whole training split at `train.learning_rate`."""
        whole = self.of_whole_split
        return whole[whole["name"].isin(self.at_the_rate["name"])]

    def against(self, what: str) -> str:
        """The picture's heading."""
        return f"{self.split}: {self.metric.label} against {what}"

    def rows(self, settings: pd.DataFrame) -> Iterator[Row]:
        """A chart's row for each setting: its score, and the ends of the score's interval."""
        for row in settings.to_dict("records"):
            yield self._row({**row, "setting": row["name"]}, "point")

    def runs(self, settings: pd.DataFrame) -> Iterator[Row]:
        """A chart's row for each single run of the settings that have several seeds."""
        several = set(settings.loc[settings["seeds"] > 1, "name"])
        for row in self.table.to_dict("records"):
            setting = setting_of(row["name"])
            if setting in several:
                yield self._row({**row, "seeds": 1, "setting": setting}, "run")

    def _row(self, row: Mapping[Any, Any], mark: str) -> Row:
        low, high = (row.get(f"{self.column}_{end}", float("nan")) for end in ("low", "high"))
        ends = {f"{self.column}_low": low, f"{self.column}_high": high}
        score = self.metric.shown(row[self.column])
        return {
            "mark": mark,
            "series": series_label(row["kind"], row["initialization"]),
            "setting": row["setting"],
            "name": row["name"],
            "initialisation": row["initialization"],
            "length": int(row["length"]),
            "seeds": int(row["seeds"]),
            "score": score + shown_interval(ends, self.column, self.metric.name),
            "y": number(row[self.column]),
            "low": number(low),
            "high": number(high),
        }
