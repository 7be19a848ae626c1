"""What a teacher will read and keep, counted before it begins."""

from collections.abc import Mapping

from datasets import Dataset

from pipeline.data.rows import TokenizedRows
from pipeline.data.teacher import BYTES


def size_in_words(name: str, splits: Mapping[str, Dataset], top_k: int, context: int | None) -> str:
    """A sentence with rows, tokens and MB; `context` is that of a text, None for chunks."""
    rows = [TokenizedRows(split, ["input_ids", "target_start"]) for split in splits.values()]
    tokens = sum(int(own.tokens.sum()) for own in rows)
    targets = sum(int((own.tokens - own.target_starts).sum()) for own in rows)
    read = "each after its own chunk" if context is None else f"after {context:,} of the text"
    return (
        f"{name}: {sum(map(len, rows)):,} examples of {tokens:,} tokens in all, {read}; the "
        f"{top_k:,} likeliest tokens at {targets:,} target tokens take "
        f"{targets * top_k * BYTES / 1e6:,.1f} MB"
    )
