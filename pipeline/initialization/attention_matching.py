"""`attention_matching`: a text file in fewer keys and values, matched to what its cache gave."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pipeline.initialization.context import StartContext
from pipeline.initialization.read_after_text import ReadAfterText
from pipeline.schema.section import Count

if TYPE_CHECKING:
    from pipeline.prefix import KVPrefix


class AttentionMatching(ReadAfterText):
    """Keys of a text file, chosen head by head, with values that give what all of them gave.

    Closed form (arXiv 2602.16284), judged by the queries of training examples.
    """

    type: Literal["attention_matching"]
    examples: Count = 16

    reads_targets: ClassVar[bool] = True

    def start(self, context: StartContext) -> "KVPrefix":
        """The compaction of the text to the variant's length, by the first training examples."""
        from pipeline.prefix import attention_matching

        examples = context.examples(self.examples)
        with self.whole(context) as whole:
            text = whole.chosen_of(context.cached)
            return attention_matching(whole, text, context.length, examples)

    def tokens(self, context: StartContext) -> None:
        """None: every head keeps tokens of its own."""

    def origin(self) -> str:
        """The file, whose tokens no virtual token is of any more."""
        return f"keys and values matched to {self.path}"
