"""How a row of data becomes the model's input and its target: the `task` section."""

import datetime
import json
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from pipeline.errors import PipelineError
from pipeline.schema.section import Section

# What the pipeline itself asks of a chat template, besides what stands in the conversation.
_OWN_VARIABLES = (
    *("conversation", "messages", "chat_template", "add_generation_prompt", "tokenize"),
    *("continue_final_message", "sanitize_control_tokens", "padding", "truncation", "max_length"),
    *("return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs"),
    *("bos_token", "strftime_now", "self"),
)


def _written(date: Any) -> Any:
    # YAML reads an unquoted date as one.
    return date.isoformat() if type(date) is datetime.date else date


def _as_json(variables: Any) -> Any:
    # MLflow's models keep them so.
    try:
        return json.loads(json.dumps(variables, default=_written, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{variables!r} holds what JSON has no form for; write finite numbers, texts, "
            "lists and mappings"
        ) from error


class TaskParams(Section):
    """Jinja2 templates over the data's columns, with or without the model's chat template.

    `row` in a template holds all columns by name. In place of templates, `messages_column` names a
    column of several turns, of which the last assistant's, or each, is a target (`loss_on`).

    `type` says what the target is: a text that goes on from the input (`causal_lm`) or that a
    decoder writes (`seq2seq_lm`), a label of the input (`seq_cls`), or one of each word of it
    (`token_cls`, words and labels set apart by `word_separator`, None for any white space).
    """

    type: Literal["causal_lm", "seq2seq_lm", "seq_cls", "token_cls"] = "causal_lm"
    input_template: str = ""
    target_template: str = ""
    messages_column: str | None = None
    loss_on: Literal["last", "all"] = "last"
    use_chat_template: bool = False
    system_prompt: str | None = None
    chat_template_kwargs: Annotated[dict[str, Any], BeforeValidator(_as_json)] = Field(
        default_factory=dict
    )
    chat_template_date: Annotated[str, BeforeValidator(_written)] = "2025-01-01"
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
            raise ValueError(
                f"is no valid Jinja2 template: {error.message}; a column whose name is no word, or "
                "a word of Jinja2's, is row['its name']"
            ) from error
        return template

    @field_validator("chat_template_date")
    @classmethod
    def _is_a_date(cls, date: str) -> str:
        try:
            datetime.date.fromisoformat(date)
        except ValueError as error:
            raise ValueError("should be a date such as 2025-01-31") from error
        return date

    @field_validator("chat_template_kwargs")
    @classmethod
    def _are_the_templates(cls, variables: dict[str, Any]) -> dict[str, Any]:
        if taken := [name for name in variables if name in _OWN_VARIABLES]:
            raise ValueError(
                f"cannot set {taken[0]}, which the pipeline sets itself; give variables of the "
                "model's chat template, such as enable_thinking: false"
            )
        return variables

    @model_validator(mode="after")
    def _one_way_to_targets(self) -> Self:
        if self.messages_column is not None:
            if self.input_template or self.target_template:
                raise ValueError(
                    "give messages_column or input_template and target_template, not both"
                )
            if not self.use_chat_template:
                raise ValueError("messages_column needs use_chat_template: true")
            if self.too_long == "truncate":
                raise ValueError(
                    "too_long: truncate would cut a conversation's turns; use refuse or drop"
                )
            return self
        for key in ("input_template", "target_template"):
            if key not in self.model_fields_set:
                raise ValueError(f"{key}: is missing; give it, or messages_column")
        if self.loss_on == "all":
            raise ValueError("loss_on: all needs messages_column")
        return self

    @model_validator(mode="after")
    def _chat_needs_its_template(self) -> Self:
        for key in ("system_prompt", "chat_template_kwargs", "chat_template_date"):
            unset = type(self).model_fields[key].get_default(call_default_factory=True)
            if getattr(self, key) != unset and not self.use_chat_template:
                raise ValueError(f"{key} needs use_chat_template: true")
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
