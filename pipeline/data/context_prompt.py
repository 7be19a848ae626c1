"""A text before an input, where the task has it: as the system's turn, or in the user's words."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.data.conversation import Turns
from pipeline.data.rendering import Renderer
from pipeline.data.shared_prompt import PROBES, SharedPrompt, user
from pipeline.data.system_turn import in_system, prints_system
from pipeline.data.templates import render
from pipeline.errors import PipelineError
from pipeline.schema.placing import Placed


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
        return TextPrompt(self, text).whole(row)

    def shared(self, text: str) -> list[int]:
        """The tokens that are the same before every input, so that they are read once.

        Raises PipelineError where the chat template has no system's turn, or leaves it out.
        """
        return self.after(text).shared

    def after(self, text: str) -> "TextPrompt":
        """The prompts that have this text before their input. Raises PipelineError as `shared`."""
        self.refuse_lost(text)
        return TextPrompt(self, text)

    def refuse_lost(self, text: str) -> None:
        """Raise PipelineError where the chat template has no system's turn, or leaves it out."""
        if not self._is_chat or self._role != "system":
            return
        turns = self.renderer.conversation([user(PROBES[0])])
        if not prints_system(self.renderer.chat, text.strip(), turns):
            raise PipelineError(
                f"{self.key}.role: the model's chat template does not print a system's "
                "turn; use role: user"
            )

    def prompt_ids(self, text: str, turns: Turns, asked: str) -> list[int]:
        """The tokens of a whole prompt: what is asked after the text, in turns and as one text."""
        if not self._is_chat:
            return self.renderer.prompt_ids(self._within(text, asked))
        turns = self.renderer.conversation(turns)
        if self._role == "system":
            return self.renderer.prompt_ids(in_system(text.strip(), turns))
        return self.renderer.prompt_ids(self._in_words(text, turns))

    @property
    def _is_chat(self) -> bool:
        return self.renderer.task.use_chat_template

    @property
    def _role(self) -> str:
        return self.placed.role or ("system" if self._is_chat else "user")

    def _in_words(self, text: str, turns: Turns) -> Turns:
        """The text in the first turn of a user."""
        first = next(i for i, turn in enumerate(turns) if turn["role"] == "user")
        said = self._within(text, turns[first].get("content", ""))
        return [*turns[:first], {**turns[first], "content": said}, *turns[first + 1 :]]

    def _within(self, text: str, asked: str) -> str:
        given = {"text": text.strip(), "input": asked}
        return render(self.placed.template, given, f"{self.key}.template")


@dataclass(frozen=True)
class TextPrompt(SharedPrompt):
    """Prompts with the same text before every input."""

    prompt: ContextPrompt
    text: str

    def prompt_ids(self, asked: Turns, text: str) -> list[int]:
        """The tokens of the text and what is asked after it."""
        return self.prompt.prompt_ids(self.text, asked, text)
