"""The frozen model with a text in its context, whose predictions prefixes learn: `teachers`."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from pipeline.schema.compute import Compute, Dtype
from pipeline.schema.placing import Placed
from pipeline.schema.section import Count, GivenPath, Name, distinct

TaughtSplit = Literal["train", "validation", "test", "test_unseen"]


class TeacherParams(Placed, Compute):
    """One teacher: what it reads, where that stands, and how much of its predictions is kept.

    `path` is a text file, or a folder of self-study, each of whose rows has a `context`. `splits`
    are those of which it keeps predictions.
    """

    path: GivenPath
    top_k: Count = 20
    splits: Annotated[list[TaughtSplit], AfterValidator(distinct)] = Field(
        default=["train", "validation"], min_length=1
    )
    dtype: Dtype = "float32"


Teachers = dict[Name, TeacherParams]
