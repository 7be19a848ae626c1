"""What is compared, and how it is shown: `sweep`, `baselines`, `report`, `mlflow`."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from pipeline.config.section import Count, Name, Section, distinct
from pipeline.config.training import LabelMetric, TextMetric


class SweepParams(Section):
    """Every combination of length, initialisation and seed is one variant."""

    lengths: Annotated[list[Count], Field(min_length=1)]
    initializations: Annotated[list[Name], Field(min_length=1)]
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    # Of the training split, besides the whole of it; [] for none.
    train_sizes: list[Count]
    # Text-based initialisations that are also measured untrained, at every length; [] for none.
    in_context: list[Name]

    @field_validator("lengths", "initializations", "seeds", "train_sizes", "in_context")
    @classmethod
    def _distinct(cls, items: list[Any]) -> list[Any]:
        return distinct(items)


class Reference(Section):
    """What every baseline has: `path` is what it is made from, so that DVC watches it."""

    path: str


class NoPrefix(Reference):
    """The frozen model with nothing before the input."""

    type: Literal["no_prefix"]


class InContext(Reference):
    """The frozen model with the text of a file in its context; null for as much as fits."""

    type: Literal["in_context"]
    max_tokens: Count | None = 512


class Adapter(Reference):
    """A PEFT prefix-tuning adapter folder, measured as it is: a variant trained elsewhere."""

    type: Literal["adapter"]


Baseline = Annotated[NoPrefix | InContext | Adapter, Field(discriminator="type")]


class ReportParams(Section):
    """The summary table, its statistics, and the plots."""

    sort_by: Literal["loss", "perplexity", TextMetric, LabelMetric] = "loss"
    split: Literal["validation", "test", "test_unseen"] = "test"
    resamples: Annotated[int, Field(ge=100)] = 1000
    seed: Annotated[int, Field(ge=0)] = 0
    dpi: Annotated[int, Field(ge=50, le=600)] = 120


class MLflowParams(Section):
    """Which experiment the runs join; the store itself is MLFLOW_TRACKING_URI's."""

    experiment: Annotated[str, Field(min_length=1)] = "prefix-tuning"
    log_every_steps: Count = 1
    models: Literal["reference", "complete", "none"] = "reference"
