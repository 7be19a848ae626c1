"""The mean of the weights that a training passes through: `train.averaging`."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.schema.section import Fraction, Section


class ExponentialAveraging(Section):
    """Each step's mean is `decay` times that of the step before, and for the rest its weights."""

    type: Literal["ema"]
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.9


class TailAveraging(Section):
    """The weights of all steps after the share `start` of the training count alike."""

    type: Literal["tail"]
    start: Fraction = 0.5


Averaging = Annotated[ExponentialAveraging | TailAveraging, Field(discriminator="type")]
