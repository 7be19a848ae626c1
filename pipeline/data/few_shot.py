"""Whole training examples before an input, as a person who prompts would show them.

Under a chat template they are turns of one conversation, after a system turn with instructions
(in the first turn where the template has none for a system); without one they stand one after
another, each an input with its target and a blank line, or more of them than any target has.

What all inputs share is read by the model once, as a KV cache. Each input's own tokens are those
of the whole prompt after the shared ones, so that a prompt has the tokens that it would have if it
were written and read as one.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from datasets import Dataset

from pipeline.data.conversation import Turns
from pipeline.data.rendering import Renderer
from pipeline.data.rewritten import rewritten
from pipeline.errors import PipelineError
from pipeline.prefix.starts.beginning import text_tokens

BLANK_LINE = "\n\n"
# Two inputs that share no first token.
_PROBES = ("0", "A")


@dataclass(frozen=True)
class FewShotPrompt:
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

    @cached_property
    def shared(self) -> list[int]:
        """The tokens before any input, what begins the text (BOS) included."""
        first, second = (self._prompt_ids([_user(probe)], probe) for probe in _PROBES)
        return first[: _alike(first, second)]

    def shared_by(self, splits: Iterable[Dataset]) -> list[int]:
        """The tokens before every input of these splits.

        They are fewer than `shared` where an input's first characters join the last of them in
        one token.
        """
        shared = self.shared
        for split in splits:
            for row in split:
                whole = self._whole(row)
                # At least one token is the input's own.
                shared = shared[: min(_alike(shared, whole), len(whole) - 1)]
        return shared

    def follow(self, split: Dataset, shared: Sequence[int]) -> Dataset:
        """A split's examples as they go on after the shared tokens; one in memory.

        Raises PipelineError for an input that does not share them.
        """

        def followed(row: Mapping[str, Any]) -> dict[str, Any]:
            whole = self._whole(row)
            if whole[: len(shared)] != list(shared):
                raise PipelineError(
                    f"baselines: the prompt of example {row['id']} does not begin as all others"
                )
            own = whole[len(shared) :]
            return {"input_ids": own + self._target(row), "target_start": len(own)}

        return rewritten(split, followed)

    @property
    def _is_chat(self) -> bool:
        return self.renderer.task.use_chat_template

    def _whole(self, row: Mapping[str, Any]) -> list[int]:
        return self._prompt_ids(_asked(row), str(row["input"]))

    def _prompt_ids(self, asked: Turns, text: str) -> list[int]:
        if self._is_chat:
            return self._renderer.prompt_ids([*self._conversation, *asked])
        return text_tokens(self.renderer.tokenizer, self._text + text)

    @cached_property
    def _renderer(self) -> Renderer:
        """The task's renderer, with the instructions as its system prompt."""
        if self.instructions is None or not self._takes_system:
            return self.renderer
        return self.renderer.with_system_prompt(self.instructions)

    @cached_property
    def _takes_system(self) -> bool:
        """Whether the chat template has a system turn, and does not leave it out."""
        assert self.instructions is not None, "without instructions nothing is to be said"
        chat = self.renderer.with_system_prompt(self.instructions).chat
        try:
            text = chat.render([*chat.system, _user(_PROBES[0])], True)
        except PipelineError:
            return False
        return self.instructions.strip() in text

    @cached_property
    def _conversation(self) -> Turns:
        turns: Turns = [] if self.instructions is not None else _system_of(self.shown[0])
        for row in self.shown:
            turns += _asked(row)
            turns.append({"role": "assistant", "content": row["target"]})
        if self.instructions is not None and not self._takes_system:
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

    def _target(self, row: Mapping[str, Any]) -> list[int]:
        """The target's tokens, ended as the examples shown end theirs."""
        target = list(row["input_ids"][row["target_start"] :])
        if self._is_chat:
            return target
        return [*target[: -len(self.renderer.end_of_target)], *self._end_of_answer]

    @cached_property
    def _end_of_answer(self) -> list[int]:
        """The first token of a blank line after an answer, as it is where a text follows.

        Of more blank lines all tokens: the first alone may stand within an answer.
        """
        tokenizer = self.renderer.tokenizer
        answer, following = (tokenizer.encode(t, add_special_tokens=False) for t in "0A")
        whole = tokenizer.encode(f"0{self._between}A", add_special_tokens=False)
        between = list(whole[_alike(answer, whole) :])
        if self._between == BLANK_LINE:
            return between[:1]
        return between[: len(between) - _alike(following[::-1], whole[::-1])]


def _asked(row: Mapping[str, Any]) -> Turns:
    """A tokenized row's turns up to its target, without a system's."""
    if row.get("turns") is None:
        return [_user(row["input"])]
    return [turn for turn in json.loads(row["turns"]) if turn["role"] != "system"]


def _system_of(row: Mapping[str, Any]) -> Turns:
    """The system's turns that a tokenized row has of its own."""
    if row.get("turns") is None:
        return []
    return [turn for turn in json.loads(row["turns"]) if turn["role"] == "system"]


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _alike(first: Sequence[int], second: Sequence[int]) -> int:
    """How many first tokens two texts share."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))
