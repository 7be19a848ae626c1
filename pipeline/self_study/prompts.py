"""A chunk and what is asked below it, as the tokens that the frozen model reads."""

from dataclasses import dataclass
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from pipeline.data.chat import Chat
from pipeline.errors import PipelineError
from pipeline.prefix.starts.beginning import tokens_before

_DATE = "2025-01-01"
_BETWEEN = "\n\n"


@dataclass(frozen=True)
class Prompts:
    """By the model's chat template, as one user's turn; without one as plain text.

    What is asked is tokenized apart from the chunk before it, whose tokens are so the same
    whatever is asked.
    """

    tokenizer: PreTrainedTokenizerBase

    @property
    def is_chat(self) -> bool:
        """Whether there is a chat template."""
        return self.tokenizer.chat_template is not None

    def chunk(self, context: str) -> list[int]:
        """The tokens up to the end of a chunk."""
        if not self.is_chat:
            return [*tokens_before(self.tokenizer), *self._encoded(context)]
        return self._encoded(self._parts(context, "")[0])

    def asked(self, context: str, ask: str) -> list[int]:
        """The tokens that follow the chunk's, up to where the model begins to write."""
        if not self.is_chat:
            return self._encoded(f"{_BETWEEN}{ask}\n")
        return self._encoded(self._parts(context, ask)[1])

    @property
    def end_of_turn(self) -> list[int]:
        """The token by which the chat template ends an assistant's turn; none where it has none."""
        return self._chat.end_of_turn[-1:] if self.is_chat else []

    def _parts(self, context: str, ask: str) -> tuple[str, str]:
        turns = [{"role": "user", "content": f"{context}{_BETWEEN}{ask}"}]
        text = self._chat.render(turns, add_generation_prompt=True)
        before, found, after = text.partition(context)
        if not found:
            raise PipelineError(
                "self_study: the model's chat template does not print a user's text as it is; use "
                "a server as the generator, or another model"
            )
        return before + found, after

    def _encoded(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False, verbose=False))

    @cached_property
    def _chat(self) -> Chat:
        return Chat(self.tokenizer, _DATE)
