"""What kind of task the columns are, and how a row becomes an example of it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config.task import TaskParams
from pipeline.data.conversation import answers_in, as_text, turns_of
from pipeline.data.templates import EmptyRowError, render
from pipeline.errors import PipelineError
from pipeline.project.columns import Roles
from pipeline.project.frozen_model import ModelChoice
from pipeline.project.templates import (
    input_template,
    references_column,
    target_template,
    word_templates,
)
from pipeline.sources.rows import Row

_MOST_LABELS, _LONGEST_LABEL, _ROWS_A_LABEL = 20, 40, 5


@dataclass(frozen=True)
class Task:
    """The keys of `task`, and for each that was guessed a sentence that says how.

    `nameless` are the columns whose names may be no names.
    """

    keys: dict[str, Any]
    guesses: dict[str, str]
    labels: int = 0
    nameless: tuple[str, ...] = ()

    @property
    def type(self) -> str:
        return str(self.keys["type"])

    @property
    def params(self) -> TaskParams:
        """The section as the pipeline reads it. Raises PipelineError for what cannot be."""
        return TaskParams.model_validate(self.keys)

    def labels_in(self, target: str) -> set[str]:
        """The labels in a rendered target, of a classifier."""
        is_of_words = self.type == "token_cls"
        return set(target.split(self.keys["word_separator"])) if is_of_words else {target}

    def texts(self, row: Row) -> tuple[str, str] | None:
        """A row's input and target; None for one that lacks either."""
        try:
            if self.keys["messages_column"] is not None:
                turns = turns_of(row, self.keys["messages_column"])
                before, target = answers_in(turns, "last", row)[-1]
                shown = as_text(before)
            else:
                shown = render(self.keys["input_template"], row, "--input")
                target = render(self.keys["target_template"], row, "--target")
        except EmptyRowError:
            return None
        return (shown, target) if shown.strip() and target.strip() else None


def task_of(roles: Roles, rows: Sequence[Row], model: ModelChoice, kind: str | None = None) -> Task:
    """The task that the columns are, `kind` where a person says so.

    Raises PipelineError for one that the model or the columns cannot be.
    """
    labels = _labels(roles, len(rows))
    told = kind or _kind(roles, labels, model)
    if told == "token_cls" and not roles.is_of_words:
        raise PipelineError(
            "--task: token_cls needs two columns that list words and a label for each, as "
            "tokens and tags"
        )
    keys: dict[str, Any] = {"type": told, "messages_column": None, "references_column": None}
    # Also what a person may have changed of the default params.
    keys |= {"loss_on": "last", "word_separator": None}
    keys["chat_template_date"] = "2025-01-01"
    guesses = {"type": _why(told, kind, roles, labels)}
    is_chat = told == "causal_lm" and model.has_chat_template
    if roles.is_chat:
        if told != "causal_lm" or not model.has_chat_template:
            raise PipelineError(
                f"--data: '{roles.target.name}' holds turns of a chat, which need a model with a "
                "chat template and no other --task than causal_lm; use an instruction-tuned model"
            )
        keys |= {"messages_column": roles.target.name, "input_template": "", "target_template": ""}
        guesses["messages_column"] = f"'{roles.target.name}', since {roles.why}"
    elif told == "token_cls":
        separator = _separator(roles, rows)
        shown, target = word_templates(roles, separator or " ")
        keys |= {"input_template": shown, "target_template": target, "word_separator": separator}
    else:
        is_continued = told == "causal_lm" and not is_chat
        keys["input_template"] = input_template(roles, is_continued)
        keys["target_template"] = target_template(roles, is_continued)
        if told in ("causal_lm", "seq2seq_lm"):
            keys["references_column"] = references_column(roles)
    if not roles.is_chat:
        read = " and ".join(f"'{column.name}'" for column in roles.inputs)
        verb = "is" if len(roles.inputs) == 1 else "are"
        guesses["input_template"] = f"{read} {verb} what the model reads, {roles.why}"
        guesses["target_template"] = f"'{roles.target.name}' is what it is to write, {roles.why}"
    keys["use_chat_template"] = is_chat
    guesses["use_chat_template"] = model.why_chat_template
    # Keys of the file that is written over that only a chat template has a use for.
    keys["system_prompt"] = "" if is_chat and not roles.is_chat else None
    used = dict.fromkeys((*roles.inputs, roles.target))
    return Task(keys, guesses, labels, tuple(c.name for c in used if c.may_be_nameless))


def _labels(roles: Roles, rows: int) -> int:
    """How many different labels the target seems to be; 0 where it seems to be text."""
    target = roles.target
    few = 2 <= target.distinct <= min(_MOST_LABELS, rows // _ROWS_A_LABEL)
    return target.distinct if few and target.longest <= _LONGEST_LABEL else 0


def _kind(roles: Roles, labels: int, model: ModelChoice) -> str:
    if roles.is_of_words:
        return "token_cls"
    if model.kind == "encoder":
        if not labels:
            raise PipelineError(
                f"--model: '{model.name}' writes no text, and '{roles.target.name}' is no label "
                f"({roles.target.distinct} different values); use a model that writes text, or "
                "name a column of labels with --target"
            )
        return "seq_cls"
    return "seq2seq_lm" if model.kind == "encoder_decoder" else "causal_lm"


def _why(told: str, kind: str | None, roles: Roles, labels: int) -> str:
    if kind is not None:
        return "as --task says"
    if told == "token_cls":
        return f"'{roles.target.name}' lists a label for each of '{roles.main.name}'"
    if told == "seq_cls":
        return f"'{roles.target.name}' has {labels} different values, and the model writes no text"
    if labels:
        return (
            f"'{roles.target.name}' has {labels} different values, which the model is to write as "
            "text; with --task seq_cls a classifier's head is trained beside the prefix instead"
        )
    if roles.is_chat:
        return f"the last answer in '{roles.target.name}' is what the model is to write"
    return f"'{roles.target.name}' is a text that the model is to write"


def _separator(roles: Roles, rows: Sequence[Row]) -> str | None:
    """None where no word holds white space."""
    listed = (row.get(column.name) or [] for row in rows for column in (roles.main, roles.target))
    spaced = any(len(str(item).split()) != 1 for items in listed for item in items)
    return "\n" if spaced else None


def key_of(task: Task, row: Row, shown: str) -> str:
    """What two rows share that must not stand in different splits: their input, but for spaces."""
    column = task.keys["messages_column"]
    if column is not None:
        return json.dumps(answers_in(turns_of(row, column), "last", row)[-1][0], sort_keys=True)
    return " ".join(shown.split()).casefold()
