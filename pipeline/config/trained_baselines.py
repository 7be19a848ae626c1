"""Other ways to adapt the frozen model, trained as the variants are: `trained_baselines`."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from pipeline.config.train import TrainParams
from pipeline.schema.section import Count, Fraction, Section

Rate = Annotated[float, Field(gt=0)]


class TrainedBaselineParams(Section):
    """What stands in place of `train` where it is given; null is as in `train`."""

    learning_rate: Rate
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    batch_size: Count | None = None
    epochs: Annotated[float, Field(gt=0)] | None = None
    max_steps: Count | None = None

    @model_validator(mode="after")
    def _one_duration(self) -> Self:
        if self.epochs is not None and self.max_steps is not None:
            raise ValueError("give epochs or max_steps, not both")
        return self

    def training(self, train: TrainParams) -> TrainParams:
        """The params that this baseline is trained with."""
        own = self.model_dump(include=set(TrainedBaselineParams.model_fields), exclude_none=True)
        changes: dict[str, Any] = {**own}
        if self.epochs is not None:
            changes["max_steps"] = None
        if self.max_steps is not None:
            changes["epochs"] = None
        return train.model_copy(update=changes)


class Lora(TrainedBaselineParams):
    """Low-rank updates of linear layers (Hu et al. 2021, arXiv 2106.09685), by PEFT."""

    type: Literal["lora"]
    learning_rate: Rate = 2e-4
    rank: Count = 8
    alpha: Count = 16
    dropout: Fraction = 0.0
    target_modules: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] = "all-linear"


class FullFineTuning(TrainedBaselineParams):
    """Every weight of the model, trained in float32."""

    type: Literal["full_fine_tuning"]
    learning_rate: Rate = 2e-5


TrainedBaseline = Annotated[Lora | FullFineTuning, Field(discriminator="type")]
