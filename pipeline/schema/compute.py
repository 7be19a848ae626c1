"""Where and in which precision a stage computes: what several sections share."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator

from pipeline.schema.section import Section

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
_RULES = ("auto", "balanced", "sequential")
_PLACE = re.compile(r"cpu|disk|mps|cuda(:\d+)?")


def _places(value: Any) -> Any:
    if value in _RULES if isinstance(value, str) else isinstance(value, dict) and value:
        where = value if isinstance(value, dict) else {}
        if wrong := [name for name, place in where.items() if not _is_place(name, place)]:
            raise ValueError(
                f"puts '{wrong[0]}' on {where[wrong[0]]!r}; use the number of a GPU, cpu or disk"
            )
        return value
    raise ValueError(f"is {value!r}; use {', '.join(_RULES)}, or a mapping of modules to devices")


def _is_place(name: Any, place: Any) -> bool:
    if isinstance(place, str):
        return isinstance(name, str) and _PLACE.fullmatch(place) is not None
    return isinstance(name, str) and type(place) is int and place >= 0


DeviceMap = Annotated[str | dict[str, int | str], PlainValidator(_places)]
"""Where accelerate puts a model's modules: by a rule, or module by module."""


class Compute(Section):
    """Where and in which precision the frozen model runs."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    dtype: Dtype = "auto"
