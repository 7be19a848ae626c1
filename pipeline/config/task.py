"""How a row of data becomes the model's input and its target: the `task` section."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipeline.config.section import Section


class TaskParams(Section):
    """Jinja2 templates over the data's columns, with or without the model's chat template."""

    input_template: str
    target_template: str
    use_chat_template: bool = False
    system_prompt: str | None = None
    references_column: str | None = None
    max_length: Annotated[int, Field(ge=2)] = 512
    too_long: Literal["refuse", "drop", "truncate"] = "refuse"
    empty: Literal["refuse", "drop"] = "refuse"

    @field_validator("input_template", "target_template")
    @classmethod
    def _parses(cls, template: str) -> str:
        from jinja2 import TemplateSyntaxError
        from jinja2.sandbox import SandboxedEnvironment

        try:
            SandboxedEnvironment().parse(template)
        except TemplateSyntaxError as error:
            raise ValueError(f"is no valid Jinja2 template: {error.message}") from error
        return template

    @model_validator(mode="after")
    def _system_prompt_needs_chat(self) -> Self:
        if self.system_prompt is not None and not self.use_chat_template:
            raise ValueError("system_prompt needs use_chat_template: true")
        return self
