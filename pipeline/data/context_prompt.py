"""A text before an input, where the task has it: as the system's turn, or in the user's words."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from pipeline.data.chat import RefusedTurnsError
from pipeline.data.conversation import Turns
from pipeline.data.rendering import Renderer
from pipeline.data.templates import render
from pipeline.errors import PipelineError
from pipeline.schema.placing import Placed

# Two inputs that share no first token.
_PROBES = ("0", "A")
_BLANK_LINE = "\n\n"


@dataclass(frozen=True)
class ContextPrompt:
    """What is read up to a target.

    `key` is the one in params.yaml that asks for it, for sentences.
    """

    key: str
    placed: Placed
    renderer: Renderer

    def input_ids(self, text: str, row: Mapping[str, Any]) -> list[int]:
        """The tokens before a tokenized row's target, what begins a text (BOS) included."""
        return self._ids(text, _turns_of(row), str(row["input"]))

    def shared(self, text: str) -> list[int]:
        """The tokens that are the same before every input, so that they are read once.

        Raises PipelineError where the chat template has no system's turn, or leaves it out.
        """
        self.refuse_lost(text)
        first, second = (self._ids(text, [_user(probe)], probe) for probe in _PROBES)
        alike = takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
        return [token for token, _ in alike]

    def refuse_lost(self, text: str) -> None:
        """Raise PipelineError where the chat template has no system's turn, or leaves it out."""
        if not self._is_chat or self._role != "system":
            return
        turns = self._in_system(text, self.renderer.conversation([_user(_PROBES[0])]))
        try:
            printed = text.strip() in self.renderer.chat.render(turns, True)
        except RefusedTurnsError:
            printed = False
        if not printed:
            raise PipelineError(
                f"{self.key}.role: the model's chat template does not print a system's "
                "turn; use role: user"
            )

    @property
    def _is_chat(self) -> bool:
        return self.renderer.task.use_chat_template

    @property
    def _role(self) -> str:
        return self.placed.role or ("system" if self._is_chat else "user")

    def _ids(self, text: str, turns: Turns, asked: str) -> list[int]:
        if not self._is_chat:
            return self.renderer.prompt_ids(self._within(text, asked))
        place = self._in_system if self._role == "system" else self._in_words
        return self.renderer.prompt_ids(place(text, self.renderer.conversation(turns)))

    def _in_system(self, text: str, turns: Turns) -> Turns:
        """The text as the system's turn, before what the system says already."""
        own = turns[0] if turns[0]["role"] == "system" else {"role": "system", "content": ""}
        rest = turns[1:] if turns[0]["role"] == "system" else turns
        said = _BLANK_LINE.join(part for part in (text.strip(), own["content"]) if part)
        return [{**own, "content": said}, *rest]

    def _in_words(self, text: str, turns: Turns) -> Turns:
        """The text in the first turn of a user."""
        first = next(i for i, turn in enumerate(turns) if turn["role"] == "user")
        said = self._within(text, turns[first].get("content", ""))
        return [*turns[:first], {**turns[first], "content": said}, *turns[first + 1 :]]

    def _within(self, text: str, asked: str) -> str:
        given = {"text": text.strip(), "input": asked}
        return render(self.placed.template, given, f"{self.key}.template")


def _turns_of(row: Mapping[str, Any]) -> Turns:
    """A tokenized row's turns up to its target."""
    if row.get("turns") is None:
        return [_user(str(row["input"]))]
    return [dict(turn) for turn in json.loads(row["turns"])]


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}
