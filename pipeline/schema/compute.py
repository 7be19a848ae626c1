"""Where and in which precision a stage computes: what several sections share."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.schema.section import Section

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
DeviceMap = (
    Literal["auto", "balanced", "sequential"]
    | Annotated[
        dict[str, int | Annotated[str, Field(pattern=r"^(cpu|disk|mps|cuda(:\d+)?)$")]],
        Field(min_length=1),
    ]
)
"""Where accelerate puts a model's modules: by a rule, or module by module."""


class Compute(Section):
    """Where and in which precision the frozen model runs."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    dtype: Dtype = "auto"
