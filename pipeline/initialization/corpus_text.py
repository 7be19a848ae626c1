"""`corpus_text`: a text file's tokens."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from pipeline.errors import PipelineError
from pipeline.initialization.context import CacheContext
from pipeline.initialization.from_text import (
    Corpus,
    TextStart,
    first_tokens,
    read_text_file,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class CorpusText(TextStart):
    """The KV cache of a text file's tokens, from `skip_tokens` on."""

    type: Literal["corpus_text"]
    use_chat_template: bool = False
    skip_tokens: Annotated[int, Field(ge=0)] = 0

    stands_in_context: ClassVar[bool] = True
    path_is_users_own: ClassVar[bool] = True

    def corpus(self, context: CacheContext) -> Corpus:
        """The file's text, under the chat template where that is asked for."""
        text = read_text_file(context.name, self.path)
        if self.use_chat_template:
            text = _as_message(context.name, text, context.tokenizer)
        tokens = context.tokenizer.encode(text, add_special_tokens=not self.use_chat_template)
        return first_tokens(context, text, tokens[self.skip_tokens :])

    def check_text(self, name: str, tokens_in: Callable[[str], int], needed: int) -> None:
        """Raise PipelineError for a file that is there and too short, or no UTF-8."""
        path = Path(self.path)
        if not path.exists():
            return
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise PipelineError(
                f"initializations.{name}.path: '{path}' is not UTF-8 text (byte {error.start})"
            ) from error
        found = tokens_in(text) - self.skip_tokens
        # A chat template only adds tokens: the text alone may be a little too short then.
        if found < needed and not self.use_chat_template:
            raise PipelineError(
                f"initializations.{name}.path: '{path}' has {found} tokens, fewer than "
                f"kv_prefix.max_length = {needed}; use a longer text or lower kv_prefix.max_length"
            )


def _as_message(name: str, text: str, tokenizer: "PreTrainedTokenizerBase") -> str:
    if tokenizer.chat_template is None:
        raise PipelineError(
            f"initializations.{name}.use_chat_template: the model's tokenizer has no chat "
            "template; set it to false"
        )
    turns = [{"role": "user", "content": text}]
    return str(tokenizer.apply_chat_template(turns, tokenize=False))
