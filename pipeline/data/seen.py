"""Which texts there were, told by 16 bytes of a hash each: two texts share one as good as never."""

import hashlib
from array import array
from functools import cached_property

import numpy as np


class Seen:
    """The digests of texts."""

    def __init__(self) -> None:
        self._words = array("Q")

    def add(self, text: str) -> None:
        """Keep a text's digest."""
        self._words.extend(_digest(text))
        self.__dict__.pop("_ordered", None)

    def are_distinct(self) -> bool:
        """Whether no text was added twice."""
        first, second = self._ordered
        same = (first[1:] == first[:-1]) & (second[1:] == second[:-1])
        return not same.any()

    def __contains__(self, text: str) -> bool:
        """Whether a text was added; best asked for when all were."""
        first, second = self._ordered
        high, low = _digest(text)
        begin, end = (int(first.searchsorted(np.uint64(high), side)) for side in ("left", "right"))
        return low in second[begin:end].tolist()

    @cached_property
    def _ordered(self) -> tuple[np.ndarray, np.ndarray]:
        words = np.array(self._words, dtype=np.uint64).reshape(-1, 2)
        words = words[np.lexsort((words[:, 1], words[:, 0]))]
        return words[:, 0].copy(), words[:, 1].copy()


def _digest(text: str) -> tuple[int, int]:
    content = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()
    return int.from_bytes(content[:8], "little"), int.from_bytes(content[8:], "little")
