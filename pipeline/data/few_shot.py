"""Whole training examples before an input, as a person who prompts would show them.

Under a chat template they are turns of one conversation, after a system turn with instructions
(in the first turn where the template has none for a system); without one they stand one after
another, each an input with its target and a blank line, or more of them than any target has.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pipeline.data.conversation import Turns
from pipeline.data.rendering import Renderer
from pipeline.data.shared_prompt import PROBES, SharedPrompt, alike, turns_of, user
from pipeline.data.system_turn import BLANK_LINE, in_system, prints_system
from pipeline.prefix.starts.beginning import text_tokens


@dataclass(frozen=True)
class FewShotPrompt(SharedPrompt):
    """The examples `shown` (tokenized rows) before an input, after `instructions`.

    Without instructions the task's own system prompt stands, or the system's turn that the data
    give the first example shown: one prompt has one, and those of the others are left out.
    """

    renderer: Renderer
    shown: Sequence[Mapping[str, Any]]
    instructions: str | None = None

    @property
    def until(self) -> str | None:
        """What ends an answer in the examples shown, where that is no token of its own."""
        return None if self._is_chat else self._between

    def prompt_ids(self, asked: Turns, text: str) -> list[int]:
        """The tokens of the examples shown and what is asked after them."""
        if self._is_chat:
            # One prompt has one system's turn.
            own = [turn for turn in asked if turn["role"] != "system"]
            return self.renderer.prompt_ids([*self._conversation, *own])
        return text_tokens(self.renderer.tokenizer, self._text + text)

    def target(self, row: Mapping[str, Any]) -> list[int]:
        """The target's tokens, ended as the examples shown end theirs."""
        target = super().target(row)
        if self._is_chat:
            return target
        return [*target[: -len(self.renderer.end_of_target)], *self._end_of_answer]

    @property
    def _is_chat(self) -> bool:
        return self.renderer.task.use_chat_template

    @cached_property
    def _takes_system(self) -> bool:
        """Whether the chat template has a system turn, and does not leave it out."""
        assert self.instructions is not None, "without instructions nothing is to be said"
        return prints_system(self.renderer.chat, self.instructions, [user(PROBES[0])])

    @cached_property
    def _conversation(self) -> Turns:
        turns: Turns = [] if self.instructions is not None else _system_of(self.shown[0])
        for row in self.shown:
            turns += _asked(row)
            turns.append({"role": "assistant", "content": row["target"]})
        if self.instructions is None:
            return turns
        # In place of the task's own system prompt.
        if self._takes_system:
            turns = in_system(self.instructions, turns)
        else:
            said = f"{self.instructions.strip()}{BLANK_LINE}{turns[0].get('content', '')}"
            turns[0] = {**turns[0], "content": said}
        return turns

    @cached_property
    def _text(self) -> str:
        parts = [] if self.instructions is None else [self.instructions.strip()]
        parts += [row["input"] + row["target"] for row in self.shown]
        return "".join(part + self._between for part in parts)

    @cached_property
    def _between(self) -> str:
        """What stands after an answer and within none."""
        breaks = [
            found for row in self.shown for found in re.findall(r"\n+", row["target"].strip())
        ]
        return max([BLANK_LINE, *(f"{found}\n" for found in breaks)], key=len)

    @cached_property
    def _end_of_answer(self) -> list[int]:
        """The first token of a blank line after an answer, as it is where a text follows.

        Of more blank lines all tokens: the first alone may stand within an answer.
        """
        tokenizer = self.renderer.tokenizer
        answer, following = (tokenizer.encode(t, add_special_tokens=False) for t in "0A")
        whole = tokenizer.encode(f"0{self._between}A", add_special_tokens=False)
        between = list(whole[alike(answer, whole) :])
        if self._between == BLANK_LINE:
            return between[:1]
        return between[: len(between) - alike(following[::-1], whole[::-1])]


def _asked(row: Mapping[str, Any]) -> Turns:
    """A tokenized row's turns up to its target, without a system's."""
    return [turn for turn in turns_of(row) if turn["role"] != "system"]


def _system_of(row: Mapping[str, Any]) -> Turns:
    """The system's turns that a tokenized row has of its own."""
    return [turn for turn in turns_of(row) if turn["role"] == "system"]
