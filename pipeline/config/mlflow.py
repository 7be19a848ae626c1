"""Where runs are logged: the `mlflow` section."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from pipeline.schema.section import Count, Section


def _printable(name: str) -> str:
    if not name.strip() or not name.isprintable():
        raise ValueError(f"is {name!r}; use a name of printable characters")
    return name


def _registrable(name: str) -> str:
    """A name as MLflow's registry takes it, and `models:/<name>@<alias>` finds it."""
    if refused := [character for character in "/:?" if character in name]:
        raise ValueError(
            f"is '{name}', which MLflow takes for no registered model's name; leave out "
            f"{' and '.join(refused)}"
        )
    if name == "." or name.startswith(".."):
        raise ValueError(f"is '{name}', which MLflow takes for a path; begin it with a letter")
    return name


# MLflow's own limit is 500, but a database keeps 256.
_Name = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_printable)]


class MLflowParams(Section):
    """Which experiment the runs join; the store itself is MLFLOW_TRACKING_URI's."""

    experiment: _Name = "prefix-tuning"
    registered_model: Annotated[_Name, AfterValidator(_registrable)] | None = None
    log_every_steps: Count = 1
    models: Literal["reference", "complete", "none"] = "reference"

    @property
    def model_name(self) -> str:
        """The registered model that variants are versions of."""
        return self.registered_model or self.experiment

    @model_validator(mode="after")
    def _experiment_names_a_model(self) -> Self:
        if self.models != "none" and self.registered_model is None:
            try:
                _registrable(self.experiment)
            except ValueError as error:
                raise ValueError(
                    f"experiment {error}; an experiment may be called so where "
                    "registered_model names the model, or models is none"
                ) from error
        return self
