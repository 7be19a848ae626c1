"""The prefix of the first tokens of a text that the stage `kv_prefix` has read."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from pipeline.errors import PipelineError
from pipeline.prefix import KVPrefix, kv_prefix_from_tokens
from pipeline.storage.records import read_json

KEPT = "prefix.safetensors"
"""The prefix that an initialisation cuts each length from, where it does."""

TOKENS = "tokens.json"
"""Of a text `tokens`, the ids that its KV cache has a key and a value of. Where no cache is kept,
`begins_text` says whether the first of them is what begins a text."""


def first_tokens(folder: Path, length: int, frozen_model: PreTrainedModel) -> KVPrefix:
    """The prefix of the first `length` tokens, cut from the cache that `folder` holds.

    Of a model that keeps states there is none: `frozen_model` reads the tokens, in its own
    precision. Raises PipelineError or PrefixError for a folder without what it needs.
    """
    if (folder / KEPT).exists():
        return KVPrefix.load(folder / KEPT)[:length]
    kept = stored_tokens(folder)
    kv = kv_prefix_from_tokens(frozen_model, kept["tokens"][:length])
    return kv.beginning_text(kept["begins_text"])


def begins_text(folder: Path) -> bool:
    """Whether what `folder` holds begins a text; what is drawn when a variant trains does not."""
    if (folder / KEPT).exists():
        return KVPrefix.load(folder / KEPT).begins_text
    return (folder / TOKENS).exists() and bool(stored_tokens(folder)["begins_text"])


def stored_tokens(folder: Path) -> dict[str, Any]:
    """What `folder` says of its text's tokens. Raises PipelineError where it is not there."""
    path = folder / TOKENS
    if not path.exists():
        raise PipelineError(f"{path}: is not there; run `dvc repro kv_prefix@{folder.name}`")
    return dict(read_json(path))
