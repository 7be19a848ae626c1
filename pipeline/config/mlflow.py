"""Where runs are logged: the `mlflow` section."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.schema.section import Count, Section


class MLflowParams(Section):
    """Which experiment the runs join; the store itself is MLFLOW_TRACKING_URI's."""

    experiment: Annotated[str, Field(min_length=1)] = "prefix-tuning"
    log_every_steps: Count = 1
    models: Literal["reference", "complete", "none"] = "reference"
