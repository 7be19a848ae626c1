"""`best_chunk`: the chunk of a text file that validation gains most from."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pipeline.initialization.context import StartContext
from pipeline.initialization.whole_chunks import WholeChunks
from pipeline.schema.section import Count

if TYPE_CHECKING:
    from pipeline.prefix import KVPrefix


class BestChunk(WholeChunks):
    """The KV cache of one of the chunks: with its first p tokens the first `examples` of the
    validation split have the lowest loss, untrained.

    Every length chooses for itself, when its variant trains, by the layers and kinds that train.
    """

    type: Literal["best_chunk"]
    examples: Count = 16

    needs_causal_lm: ClassVar[bool] = True

    def start(self, context: StartContext) -> "KVPrefix":
        """What the first p tokens of the best chunk are; its metadata say which these are."""
        from pipeline.prefix.chosen import note

        tokens = self.tokens(context)
        start = self.prefix_of(context, tokens)
        start.metadata.update(note(tokens))
        return start

    def tokens(self, context: StartContext) -> list[int]:
        """These tokens; of several chunks with one loss the first one's."""
        if context.chosen_tokens is not None:
            return context.chosen_tokens
        from pipeline.prefix import untrained_loss
        from pipeline.progress.bar import following

        model, config = context.frozen_model, context.prefix_config
        examples = context.validation(self.examples)
        chunks = self.chunk_tokens(context)
        losses = [
            untrained_loss(model, self.prefix_of(context, tokens), examples, config)
            for tokens in following(chunks, "choose a chunk", "chunk")
        ]
        return chunks[losses.index(min(losses))]
