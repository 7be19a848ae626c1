"""Whether the splits that are measured, looked into and reported are there."""

from pipeline.config.data import DataParams
from pipeline.config.evaluate import EvaluateParams
from pipeline.config.inspection import InspectionParams
from pipeline.config.report import ReportParams


def refuse_missing_splits(
    data: DataParams, evaluate: EvaluateParams, inspection: InspectionParams, report: ReportParams
) -> None:
    """Raise ValueError for a split that the data have not, or that is reported and not measured."""
    files = getattr(data, "files", None) or getattr(data, "splits", None)
    wanted = {*evaluate.splits, report.split}
    if files is not None and files.test_unseen is None and "test_unseen" in wanted:
        where = "files" if data.source == "files" else "splits"
        raise ValueError(
            f"evaluate.splits: 'test_unseen' is listed, but data.{where}.test_unseen names no "
            "such split; name one or leave test_unseen out"
        )
    lacks = files is not None and files.test_unseen is None
    if lacks and inspection.split == "test_unseen":
        where = "files" if data.source == "files" else "splits"
        raise ValueError(
            f"inspection.split: 'test_unseen' is asked for, but data.{where}.test_unseen names "
            "no such split; name one or use validation or test"
        )
    if report.split not in evaluate.splits:
        raise ValueError(
            f"report.split: '{report.split}' is not in evaluate.splits = "
            f"{evaluate.splits}; use one that is evaluated"
        )
