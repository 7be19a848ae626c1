"""What `python -m pipeline serve` serves, and how much at once: the `serving` section."""

from typing import Annotated

from pydantic import Field

from pipeline.schema.section import Count, Section

ServedName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$", max_length=100)]
"""A model's name in a request."""


class ServingParams(Section):
    """Names of served prefixes, and the bounds of the project's own engine.

    A section of its own, which no stage of DVC's reads: serving comes after all of them.
    """

    # What a name stands for is as `generate --prefix` takes it; none for every trained variant.
    prefixes: dict[ServedName, Annotated[str, Field(min_length=1)]] = Field(default_factory=dict)
    # What the frozen model alone is called; null for its name in the section `model`.
    model_name: ServedName | None = None
    max_running: Count = 32
    max_waiting: Count = 256
    max_cache_tokens: Count = 65536
    max_context: Annotated[int, Field(ge=2)] | None = None
    stop_seconds: Annotated[float, Field(ge=0)] = 30.0
