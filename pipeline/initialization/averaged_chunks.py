"""`averaged_chunks`: the mean of the KV caches of chunks of a text file."""

from typing import TYPE_CHECKING, Literal

from pipeline.initialization.context import StartContext
from pipeline.initialization.whole_chunks import WholeChunks

if TYPE_CHECKING:
    from pipeline.prefix import KVPrefix


class AveragedChunks(WholeChunks):
    """The mean of chunks' KV caches, virtual token by virtual token."""

    type: Literal["averaged_chunks"]

    def start(self, context: StartContext) -> "KVPrefix":
        """The mean of what the first p tokens of each chunk are."""
        from pipeline.prefix import mean_kv_prefix

        chunks = self.chunk_tokens(context)
        return mean_kv_prefix([self.prefix_of(context, tokens) for tokens in chunks])

    def tokens(self, context: StartContext) -> None:
        """None: a virtual token is of a token of every chunk."""

    def origin(self) -> str:
        """The file, of whose tokens each virtual token is a mean."""
        return f"means over chunks of {self.path}"
