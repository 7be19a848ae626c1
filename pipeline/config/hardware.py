"""What the machine is: the `hardware` section."""

from typing import Any, Literal

from pydantic import field_validator

from pipeline.schema.section import Count, Section

# The rows of `pipeline.prefix.packed.backends`, which imports torch, and this file does not.
Attention = Literal["auto", "kernel", "varlen", "efficient", "flex", "operators"]


class HardwareParams(Section):
    """How this machine computes.

    A section of its own, which no stage of DVC's reads: it changes results only by their rounding,
    and another machine is no reason to compute anything again.
    """

    attention: Attention = "auto"
    processes: Literal["auto"] | Count = 1
    shard_frozen_model: bool = False

    @field_validator("processes", mode="before")
    @classmethod
    def _number_of_processes(cls, value: Any) -> Any:
        # One sentence, where pydantic has one for each of the two.
        if value != "auto" and (type(value) is not int or value < 1):
            raise ValueError(f"{value!r} should be auto or a number of at least 1")
        return value
