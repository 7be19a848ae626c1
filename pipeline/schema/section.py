"""What every section of params.yaml has in common."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# Names become folder and DVC stage names, in which "-" separates length, initialisation and seed.
# Lower case alone: no two differ by case, which some disks do not tell apart.
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=100)]
# DVC fails on an empty path before any stage could say what is wrong with it.
GivenPath = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
# torch's generators take 64 bits; the report's tables and page hold no larger number exactly.
Seed = Annotated[int, Field(ge=0, lt=2**53)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


def distinct(items: list[Any]) -> list[Any]:
    """A list as it is; ValueError when an item stands in it twice."""
    if len(set(items)) < len(items):
        twice = next(item for item in items if items.count(item) > 1)
        raise ValueError(f"lists {twice} twice; name each item once")
    return items


class Section(BaseModel):
    """A params.yaml mapping: unknown keys and values of another type are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
