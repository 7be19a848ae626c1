"""The frozen model with a text in its context, whose predictions prefixes learn: `teachers`."""

from typing import Literal, Self

from pydantic import model_validator

from pipeline.schema.compute import Compute, Dtype
from pipeline.schema.section import Count, GivenPath, Name


class TeacherParams(Compute):
    """One teacher: what it reads, where that stands, and how much of its predictions is kept.

    `path` is a text file, or a folder of self-study, each of whose rows has a `context`. `role` is
    null for the system's turn where the task has a chat template, and the user's words otherwise.
    """

    path: GivenPath
    top_k: Count = 20
    role: Literal["system", "user"] | None = None
    template: str = "{{ text }}\n\n{{ input }}"
    dtype: Dtype = "float32"

    @model_validator(mode="after")
    def _template_is_used(self) -> Self:
        if self.role == "system" and "template" in self.model_fields_set:
            raise ValueError(
                "template is of a text among the user's words; set role: user, or leave it out"
            )
        return self


Teachers = dict[Name, TeacherParams]
