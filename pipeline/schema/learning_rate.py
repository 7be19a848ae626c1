"""The learning rate of a training: a number, or `auto` for one that a search finds."""

import sys
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from pipeline.schema.section import Section

Rate = Annotated[float, Field(gt=0)]


def _number_or_auto(value: Any) -> Any:
    # One sentence, where pydantic has one for each of the two.
    if value != "auto" and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ValueError(f"{value!r} should be a valid number, or auto")
    if value != "auto" and not abs(value) <= sys.float_info.max:
        raise ValueError(f"{value!r} should be a finite number, or auto")
    if value != "auto" and not value > 0:
        raise ValueError(f"{value!r} should be greater than 0")
    return value


LearningRate = Annotated[Rate | Literal["auto"], BeforeValidator(_number_or_auto)]
"""The peak of a schedule."""


def _with_a_point(value: Any) -> Any:
    # DVC writes a number as it stands in params.yaml: 1 and 1.0 would be two names of one rate.
    if type(value) is int and value > 0:
        if value > sys.float_info.max:
            raise ValueError(f"{value} should be a finite number")
        raise ValueError(f"{value} should be written with a point, as {float(value)}")
    return value


ListedRate = Annotated[Rate, BeforeValidator(_with_a_point)]
"""A peak that names stages and folders: written as Python writes a float, and as DVC does."""


class RateSearch(Section):
    """The search of a rate: candidates from `lowest` to `highest`, as far apart in ratio.

    Its steps are `share_of_steps` of those of the training itself, and one for each candidate at
    the least.
    """

    lowest: Rate = 1e-3
    highest: Rate = 1e-1
    candidates: Annotated[int, Field(ge=2)] = 7
    share_of_steps: Annotated[float, Field(gt=0)] = 1.0

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if self.lowest >= self.highest:
            raise ValueError(
                f"lowest: {self.lowest:g} has to be below highest: {self.highest:g}; set them apart"
            )
        if len(self.rates) < 2:
            raise ValueError(
                f"lowest: {self.lowest!r} and highest: {self.highest!r} are one rate to three "
                "digits, which leaves nothing to search; set them apart"
            )
        return self

    @property
    def rates(self) -> list[float]:
        """The candidates, ascending, to three digits: the same on every machine.

        Fewer than `candidates` where some are the same to three digits.
        """
        ratio = self.highest / self.lowest
        shares = (number / (self.candidates - 1) for number in range(self.candidates))
        rates = (float(f"{self.lowest * ratio**share:.3g}") for share in shares)
        return list(dict.fromkeys(rates))
