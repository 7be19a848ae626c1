"""What is compared, and how it is shown: `sweep`, `baselines`, `report`, `mlflow`."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from pipeline.config.section import Count, Name, Section


class SweepParams(Section):
    """Every combination of length, initialisation and seed is one variant."""

    lengths: Annotated[list[Count], Field(min_length=1)]
    initializations: Annotated[list[Name], Field(min_length=1)]
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]

    @field_validator("lengths", "initializations", "seeds")
    @classmethod
    def _distinct(cls, items: list[Any]) -> list[Any]:
        if len(set(items)) < len(items):
            twice = next(item for item in items if items.count(item) > 1)
            raise ValueError(f"lists {twice} twice; each item names variants of its own")
        return items


class Reference(Section):
    """What every baseline has: `path` is what it is made from, so that DVC watches it."""

    path: str


class NoPrefix(Reference):
    """The frozen model with nothing before the input."""

    type: Literal["no_prefix"]


class InContext(Reference):
    """The frozen model with the text of a file in its context."""

    type: Literal["in_context"]
    max_tokens: Count = 512


Baseline = Annotated[NoPrefix | InContext, Field(discriminator="type")]


class ReportParams(Section):
    """The summary table and the plots."""

    sort_by: Literal["loss", "perplexity", "exact_match", "token_f1", "accuracy", "f1"] = "loss"
    split: Literal["validation", "test", "test_unseen"] = "test"
    dpi: Annotated[int, Field(ge=50, le=600)] = 120


class MLflowParams(Section):
    """Which experiment the runs join; the store itself is MLFLOW_TRACKING_URI's."""

    experiment: Annotated[str, Field(min_length=1)] = "prefix-tuning"
    log_every_steps: Count = 1
