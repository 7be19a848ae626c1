"""How a row of data becomes the model's input and its target: the `task` section."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipeline.errors import PipelineError
from pipeline.schema.section import Section


class TaskParams(Section):
    """Jinja2 templates over the data's columns, with or without the model's chat template.

    `type` says what the target is: a text that goes on from the input (`causal_lm`) or that a
    decoder writes (`seq2seq_lm`), a label of the input (`seq_cls`), or one of each word of it
    (`token_cls`, words and labels set apart by `word_separator`, None for any white space).
    """

    type: Literal["causal_lm", "seq2seq_lm", "seq_cls", "token_cls"] = "causal_lm"
    input_template: str
    target_template: str
    use_chat_template: bool = False
    system_prompt: str | None = None
    references_column: str | None = None
    word_separator: Annotated[str, Field(pattern=r"^\s+$")] | None = None
    max_length: Annotated[int, Field(ge=2)] = 512
    too_long: Literal["refuse", "drop", "truncate"] = "refuse"
    empty: Literal["refuse", "drop"] = "refuse"

    @property
    def is_classification(self) -> bool:
        """Whether the target is labels, where otherwise it is text."""
        return self.type in ("seq_cls", "token_cls")

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
        if self.word_separator is not None and self.type != "token_cls":
            raise ValueError("word_separator needs type: token_cls")
        if self.too_long == "truncate" and self.type == "token_cls":
            raise ValueError(
                "too_long: truncate would part words from their labels, which type: token_cls "
                "matches; use refuse or drop"
            )
        if self.use_chat_template and self.type != "causal_lm":
            raise ValueError("use_chat_template: true needs type: causal_lm")
        return self


def refuse_other_tasks(
    task: TaskParams, what: str, served: tuple[str, ...] = ("causal_lm",)
) -> None:
    """Raise PipelineError for what is there for tasks of other types alone."""
    if task.type not in served:
        raise PipelineError(
            f"task.type: {task.type} has no `{what}`, which is for {' and '.join(served)} alone; "
            "the trained prefixes are data/train/<variant>/prefix.safetensors, for pipeline.prefix "
            "in Python"
        )
