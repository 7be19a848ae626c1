"""A study file: a question, its trials' keys, and how their results are shown."""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from pipeline.config.load import read_yaml
from pipeline.errors import PipelineError
from pipeline.schema.section import Section

STUDIES = Path(__file__).with_name("studies")

Keys = dict[str, Any]
Seed = Annotated[int, Field(ge=0)]


class Group(Section):
    """Trials that differ in what `vary` lists, every combination of it.

    `set` and `vary` take keys of params.yaml with dots between them, and a trial's own: `method`
    (prefix, or a key of `trained_baselines`), `length`, `start` (a key of `initializations`),
    `trained` (keys or values, where the others stay as they start) and `train_size`.
    """

    seeds: Annotated[dict[Seed, int], Field(min_length=1)]
    """Each seed's place in the order of all trials: the lowest are tried first."""

    set: Keys = Field(default_factory=dict)
    vary: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default_factory=dict)
    alone: bool = False
    """Whether nothing else computes meanwhile, so that its times can be compared."""


class Plot(Section):
    """A curve for each combination of `series`, against the key `x`."""

    x: str
    title: str
    series: Annotated[list[str], Field(min_length=1)]
    logarithmic: bool = True


class Curves(Section):
    """The trainings whose losses are drawn over their passes: those with the values of `of`."""

    of: Keys
    series: Annotated[list[str], Field(min_length=1)]


class Study(Section):
    """A question, the trials that answer it, and how their results are shown.

    `rows` are the keys that tell a table's rows apart; seeds are averaged. Of the rows that differ
    in the key `chosen_by_validation` alone one stays, that with the lowest loss on validation.
    """

    question: str
    rows: Annotated[list[str], Field(min_length=1)]
    chosen_by_validation: str | None = None
    compares: str | None = None
    plot: Plot | None = None
    curves: Curves | None = None
    set: Keys = Field(default_factory=dict)
    groups: Annotated[list[Group], Field(min_length=1)]

    @model_validator(mode="after")
    def _shows_rows(self) -> Self:
        drawn = [] if self.plot is None else [self.plot.x, *self.plot.series]
        others = filter(None, (self.chosen_by_validation, self.compares))
        for key in (*drawn, *others):
            if key not in self.rows:
                raise ValueError(
                    f"rows: lacks {key}, which the plot, the choice or the comparison names"
                )
        return self


def read_study(path: Path) -> Study:
    """One study file. Raises PipelineError with the first mistake."""
    try:
        return Study.model_validate(read_yaml(path))
    except ValidationError as error:
        raise PipelineError(f"{path}: {first_mistake(error)}") from error


def first_mistake(error: ValidationError) -> str:
    """The first mistake, and where it is."""
    mistake = error.errors(include_input=False)[0]
    message = mistake["msg"].removeprefix("Value error, ")
    return ": ".join(filter(None, [".".join(map(str, mistake["loc"])), message]))
