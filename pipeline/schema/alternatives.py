"""Sections of several kinds, of which `type` says which one stands there."""

import functools
import operator
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from pipeline.schema.section import Section


def one_of(kinds: Sequence[type[Section]]) -> Any:
    """The type of a section that is of one of these kinds, told apart by its key `type`."""
    union: Any = functools.reduce(operator.or_, kinds)
    return Annotated[union, Field(discriminator="type")]
