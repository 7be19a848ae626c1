"""What variants are measured against, untrained: the `baselines` section."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.schema.section import Count, Section


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
