"""`retrieval`: before each input the parts of a corpus that it is about."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from pipeline.baselines.context import MeasureContext
from pipeline.baselines.in_context import text_stored
from pipeline.baselines.untrained import Before, UntrainedBaseline
from pipeline.schema.placing import Placed
from pipeline.schema.section import Count

if TYPE_CHECKING:
    from pipeline.prefix import KVPrefix

_BETWEEN = "\n\n"


class Retrieval(Placed, UntrainedBaseline):
    """The frozen model with the chunks of a corpus in its context that share words with an input.

    A corpus is a file, or a folder of them, cut as self-study cuts it; chunks are ranked by BM25
    and stand in the corpus' own order. Of the numbers `chunks` the one with the lowest loss on
    validation is measured. Each input is read with its own chunks, of which no cache is kept.
    """

    type: Literal["retrieval"]
    chunk_tokens: Count = 128
    chunks: Annotated[list[Count], Field(min_length=1, default_factory=lambda: [1, 2, 4])]

    path_is_users_own: ClassVar[bool] = True
    needs_causal_lm: ClassVar[bool] = True

    def choices(self, context: MeasureContext) -> Iterator[Before]:
        """The best one, two or more chunks before each input, fewest first.

        Raises PipelineError for a corpus without text, and inputs that leave no room for chunks.
        """
        from pipeline.corpus.chunks import chunks_of
        from pipeline.corpus.documents import read_documents
        from pipeline.corpus.retrieval import Retriever

        chunks = [
            chunk
            for document in read_documents(Path(self.path), "baselines")
            for chunk in chunks_of(document.text, context.tokenizer, self.chunk_tokens)
        ]
        texts = [chunk.text.strip() for chunk in chunks]
        retriever = Retriever(texts)
        stored = text_stored(sum(len(chunk.token_ids) for chunk in chunks))
        for number in sorted({min(number, len(chunks)) for number in self.chunks}):

            def text_for(asked: str, number: int = number) -> str:
                return _BETWEEN.join(texts[i] for i in sorted(retriever.best(asked, number)))

            follow = context.each_after("baselines", self, text_for)
            yield Before(None, follow, facts={"chunks": number, **stored})

    def stored(self, kv: "KVPrefix | None") -> dict[str, int]:
        """The corpus, which `choices` counts."""
        return text_stored(0)
