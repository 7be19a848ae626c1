"""Where a text stands that a model reads before an input: keys that several sections share."""

from typing import Literal, Self

from pydantic import model_validator

from pipeline.schema.section import Section


class Placed(Section):
    """A text before an input.

    `role` is null for the system's turn where the task has a chat template, and the user's words
    otherwise, which `template` joins with the text.
    """

    role: Literal["system", "user"] | None = None
    template: str = "{{ text }}\n\n{{ input }}"

    @model_validator(mode="after")
    def _template_is_used(self) -> Self:
        if self.role == "system" and "template" in self.model_fields_set:
            raise ValueError(
                "template is of a text among the user's words; set role: user, or leave it out"
            )
        return self
