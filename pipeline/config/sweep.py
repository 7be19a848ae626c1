"""What is varied: the `sweep` section."""

from typing import Annotated, Any

from pydantic import Field, field_validator

from pipeline.schema.learning_rate import ListedRate
from pipeline.schema.section import Count, Name, Section, Seed, distinct


class SweepParams(Section):
    """Every combination of length, initialisation and seed is one variant."""

    lengths: Annotated[list[Count], Field(min_length=1)]
    initializations: Annotated[list[Name], Field(min_length=1)]
    seeds: Annotated[list[Seed], Field(min_length=1)]
    # Of the training split, besides the whole of it; [] for none.
    train_sizes: list[Count]
    # Peaks besides train.learning_rate, of the whole training split; [] for none.
    learning_rates: list[ListedRate] = Field(default_factory=list)
    # Text-based initialisations that are also measured untrained, at every length; [] for none.
    in_context: list[Name]

    @field_validator(
        "lengths", "initializations", "seeds", "train_sizes", "learning_rates", "in_context"
    )
    @classmethod
    def _distinct(cls, items: list[Any]) -> list[Any]:
        return distinct(items)
