"""The model's chat template: turns of a conversation as text, the same text on any day."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from pipeline.errors import PipelineError, first_line
from pipeline.prefix.starts.beginning import tokens_before

Turn = Mapping[str, Any]
"""A message: its `role`, its `content`, and whatever else the template knows."""

# What strftime can be asked for, but for "%%".
_DIRECTIVES = (*"aAbBcdDeFGHIjklmMpPrRsSTuUVwWxXyYzZ", *(f"-{letter}" for letter in "dejHImMSy"))
_ASKED, _ANSWERED = "Question-2f6e", "Answer-2f6e"


class RefusedTurnsError(PipelineError):
    """The chat template refuses a conversation, for the `reason` that it gives."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"task.use_chat_template: the model's chat template refuses: {reason}; set it to "
            "false, or leave out task.system_prompt or what task.chat_template_kwargs sets"
        )
        self.reason = reason


@dataclass(frozen=True)
class Chat:
    """The chat template of a tokenizer, with what it is rendered with.

    `variables` are those of `task.chat_template_kwargs`; a template that prints today's date
    (`strftime_now`) prints `date` (`YYYY-MM-DD`) in its place.
    """

    tokenizer: PreTrainedTokenizerBase
    date: str
    variables: Mapping[str, Any] = field(default_factory=dict)
    system_prompt: str | None = None

    @property
    def system(self) -> list[dict[str, Any]]:
        """The system turn; none where the template's own is left to stand."""
        if self.system_prompt is None:
            return []
        return [{"role": "system", "content": self.system_prompt}]

    def render(self, turns: Sequence[Turn], add_generation_prompt: bool, **variables: Any) -> str:
        """The turns as text; with `add_generation_prompt` up to where the assistant's begins.

        Raises PipelineError when the tokenizer has no chat template, when the template refuses, and
        when it prints nothing of what a user says.
        """
        return self._rendered(self.messages(turns), add_generation_prompt, **variables)

    def messages(self, turns: Sequence[Turn]) -> list[dict[str, Any]]:
        """The turns as the template reads them, contents as texts or as a list of one part each."""
        return [self._in_parts(turn) if self._reads_parts else dict(turn) for turn in turns]

    def _rendered(
        self, turns: list[dict[str, Any]], add_generation_prompt: bool, **variables: Any
    ) -> str:
        try:
            text = self.tokenizer.apply_chat_template(
                turns,
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **{**self.variables, **variables},
            )
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise RefusedTurnsError(first_line(error)) from error
        return str(text)

    def tokens(self, text: str) -> list[int]:
        """The tokens of a rendered text: the template holds all special tokens."""
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    @cached_property
    def begins_text(self) -> bool:
        """Whether the template begins a conversation with the tokenizer's BOS.

        A template may print the same token as a sign of its own, before every turn
        (`<|im_start|>`): BOS it is where the tokenizer adds it to texts, or where the template
        takes it from the variable `bos_token`.
        """
        turns = [*self.system, {"role": "user", "content": _ASKED}]
        text = self.render(turns, add_generation_prompt=True)
        first = self.tokens(text)[:1]
        if not first or first[0] != self.tokenizer.bos_token_id:
            return False
        if first == tokens_before(self.tokenizer):
            return True
        without = self.render(turns, add_generation_prompt=True, bos_token="")
        return self.tokens(without) == self.tokens(text)[1:]

    @cached_property
    def end_of_turn(self) -> list[int]:
        """The tokens that the template puts after an assistant's content, up to the one that ends
        the turn (`<end_of_turn>`, `<|im_end|>`); none where it ends turns by no such token."""
        asked = {"role": "user", "content": _ASKED}
        answered = {"role": "assistant", "content": _ANSWERED}
        text = self.render([*self.system, asked, answered], add_generation_prompt=False)
        _, found, after = text.rpartition(_ANSWERED)
        tokens = self.tokens(after) if found else []
        for index, token in enumerate(tokens):
            if token in self.tokenizer.added_tokens_decoder:
                return tokens[: index + 1]
        return []

    @cached_property
    def _reads_parts(self) -> bool:
        """Whether the template prints of a user's content the parts alone, and nothing of a text,
        as that of a model that sees images, too, may do."""
        turns = [*self.system, {"role": "user", "content": _ASKED}]
        refused: list[PipelineError] = []
        for shown, in_parts in ((turns, False), ([*map(self._in_parts, turns)], True)):
            try:
                if _ASKED.casefold() in self._rendered(shown, True).casefold():
                    return in_parts
            except PipelineError as error:
                refused.append(error)
        if refused:
            raise refused[0]
        raise PipelineError(
            "task.use_chat_template: the model's chat template prints nothing of what a user says; "
            "set it to false, or use another model"
        )

    @staticmethod
    def _in_parts(turn: Turn) -> dict[str, Any]:
        content = turn.get("content")
        if not isinstance(content, str):
            return dict(turn)
        return {**turn, "content": [{"type": "text", "text": content}]}

    @property
    def is_dated(self) -> bool:
        """Whether the template prints the day."""
        return "strftime_now" in self._template

    @cached_property
    def own_template(self) -> str:
        """The template's source, as the model has it. Raises PipelineError where it has none."""
        try:
            return str(self.tokenizer.get_chat_template(None, self.variables.get("tools")))
        except ValueError as error:
            raise PipelineError(
                "task.use_chat_template: the model's tokenizer has no chat template; set it to "
                "false, or use an instruction-tuned model"
            ) from error

    @cached_property
    def _template(self) -> str:
        return pinned_to(self.date, self.own_template)


def pinned_to(date: str, template: str) -> str:
    """A chat template whose `strftime_now`, by which it prints today's date, gives another.

    transformers gives templates the function as a global, and no way to another but the template
    itself: a macro of the same name in front of it.
    """
    if not re.search(r"\bstrftime_now\b", template):
        return template
    day = datetime.fromisoformat(date)
    filters = "".join(f"|replace('%{d}', {day.strftime(f'%{d}')!r})" for d in _DIRECTIVES)
    # Without "+" Jinja would swallow a line break that the template begins with.
    macro = f"{{% macro strftime_now(format) %}}{{{{ format{filters} }}}}{{% endmacro +%}}"
    return macro + template
