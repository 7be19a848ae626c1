"""Blocks of adjacent virtual tokens, or of layers."""

MOST_GROUPS = 32
"""So many blocks of adjacent virtual tokens are tried at the most, and so many of layers."""


def blocks(count: int, most: int = MOST_GROUPS) -> list[range]:
    """0 to count-1 in at most `most` blocks of adjacent ones, all but the last of one size."""
    size = -(-count // most)
    return [range(first, min(first + size, count)) for first in range(0, count, size)]
