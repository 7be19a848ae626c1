"""The prefix that a document's training starts from: the cache of its own tokens."""

from pathlib import Path

from transformers import PreTrainedModel

from pipeline.config.library import LibraryParams
from pipeline.corpus.documents import read_documents
from pipeline.data.rendering import Renderer
from pipeline.errors import PipelineError
from pipeline.prefix import KVPrefix, kv_prefix_from_tokens
from pipeline.prefix.starts.reshaped import spaced_chunks


def document_start(
    library: LibraryParams, name: str, frozen_model: PreTrainedModel, renderer: Renderer
) -> KVPrefix:
    """Keys and values of `library.prefix.length` of a document's tokens.

    Of a folder its files are read one after another. Raises PipelineError for a document that
    cannot be read, or is shorter.
    """
    prefix, key = library.prefix, f"library.documents.{name}"
    path = library.documents[name]
    text = "\n\n".join(document.text for document in read_documents(Path(path), key))
    tokens, beginning = renderer.tokens(text, is_chat=False)
    own = tokens[beginning:]
    if prefix.start == "chunks":
        own = spaced_chunks(own, prefix.length - beginning, prefix.chunk_tokens)
    tokens = [*tokens[:beginning], *own][: prefix.length]
    if len(tokens) < prefix.length:
        raise PipelineError(
            f"{key}: '{path}' gives {len(tokens)} tokens to start from, fewer than "
            f"library.prefix.length = {prefix.length}; lower it, or leave the document out"
        )
    return kv_prefix_from_tokens(frozen_model, tokens).beginning_text(bool(beginning))
