"""`corpus_text`: a text file's tokens."""

from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pipeline.errors import PipelineError
from pipeline.initialization.context import CacheContext
from pipeline.initialization.from_text import Corpus, first_tokens
from pipeline.initialization.from_text_file import TextFileStart, read_text_file


class CorpusText(TextFileStart):
    """The KV cache of a text file's tokens, from `skip_tokens` on."""

    type: Literal["corpus_text"]
    use_chat_template: bool = False
    skip_tokens: Annotated[int, Field(ge=0)] = 0

    stands_in_context: ClassVar[bool] = True

    def corpus(self, context: CacheContext) -> Corpus:
        """The file's text, under the chat template where that is asked for."""
        text = read_text_file(context.name, self.path)
        if self.use_chat_template:
            text = _as_message(text, context)
        tokens, count = context.rendering.tokens(text, self.use_chat_template)
        # What begins a text begins it wherever the file is entered.
        kept = [*tokens[:count], *tokens[count + self.skip_tokens :]]
        return first_tokens(context, text, kept, bool(count))

    def check_text(
        self, name: str, tokens_in: Callable[[str], int], cached_tokens: int, longest: int
    ) -> None:
        """Raise PipelineError for a file that is there and too short."""
        # A chat template only adds tokens: the text alone may be a little too short then.
        needed = 0 if self.use_chat_template else cached_tokens
        self.refuse_too_few(name, tokens_in, needed, self.skip_tokens)


def _as_message(text: str, context: CacheContext) -> str:
    if context.tokenizer.chat_template is None:
        raise PipelineError(
            f"initializations.{context.name}.use_chat_template: the model's tokenizer has no chat "
            "template; set it to false"
        )
    return context.rendering.message(text)
