"""The stages that the sweep's variants and baselines take: trainings and measurements."""

from dataclasses import dataclass
from enum import Enum

from pipeline.config import Params
from pipeline.sweep.baselines import Baseline
from pipeline.sweep.grid import all_rows
from pipeline.sweep.variants import Variant


class Kind(Enum):
    """What a stage does; the value is the stages' word for it."""

    TRAINING = "train"
    MEASUREMENT = "evaluate"


Alike = tuple[tuple[object, ...], ...]
"""What stages share, the closest likeness first."""


@dataclass(frozen=True)
class Step:
    """One stage of one variant or baseline; `stage` is its name in `dvc repro` and `dvc.lock`."""

    row: Variant | Baseline
    kind: Kind
    stage: str

    @property
    def alike(self) -> Alike:
        """What it shares with stages that take as long, the closest likeness first."""
        row, size = self.row, self.row.train_size if self.kind is Kind.TRAINING else None
        family = None if isinstance(row, Variant) else row.family
        return ((family, size, row.length), (family, size), (isinstance(row, Variant), size), ())


def all_steps(params: Params) -> list[Step]:
    """All of params.yaml, in no order of running."""
    return [step for row in all_rows(params) for step in _steps_of(row)]


def _steps_of(row: Variant | Baseline) -> list[Step]:
    if isinstance(row, Baseline) and row.seed is None:
        return [Step(row, Kind.MEASUREMENT, row.dvc_stage)]
    # train@..., train_subset@..., and evaluate_baseline@...: a variant is named by its training.
    rest = row.dvc_stage.removeprefix("train" if isinstance(row, Variant) else "evaluate")
    return [Step(row, kind, kind.value + rest) for kind in Kind]
