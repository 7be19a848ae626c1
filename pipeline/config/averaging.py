"""The mean of the weights that a training passes through: `train.averaging`."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.schema.section import Fraction, Section


class ExponentialAveraging(Section):
    """The mean after a step: `decay` of the mean before it, and 1 - `decay` of the weights."""

    type: Literal["ema"]
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.9


class TailAveraging(Section):
    """The weights of all steps after the share `start` of the training count alike."""

    type: Literal["tail"]
    start: Fraction = 0.5


Averaging = Annotated[ExponentialAveraging | TailAveraging, Field(discriminator="type")]
