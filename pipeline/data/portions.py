"""A split in parts, so that the texts of a bounded part are held at a time."""

from collections.abc import Iterator

from datasets import Dataset

EXAMPLES = 8192
"""The examples that are measured at a time; their batches waste no more for it."""


def portions(split: Dataset, size: int = EXAMPLES) -> Iterator[Dataset]:
    """A split in parts of `size` examples, in its order."""
    for start in range(0, len(split), size):
        yield split.select(range(start, min(start + size, len(split))))
