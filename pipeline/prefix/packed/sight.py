"""Which keys a query sees in a layer that hides distant ones.

Both kinds that transformers' masks know hide what stands before some position and nothing after it:
a sliding window ends so many tokens back, the query's own included; chunks begin at the multiples
of their size (Llama 4). Positions are those of the sequence, the prefix first.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True)
class Horizon:
    """Where what each token of a row sees begins.

    Attributes:
        own: of each token the first of its example that it sees, counted in the example.
        prefix: of each token the first key of the prefix that it sees; all those for none.
    """

    own: tuple[int, ...]
    prefix: tuple[int, ...]


@dataclass(frozen=True)
class Sight:
    """What a layer shows, and where the keys of the prefix stand.

    Attributes:
        window: tokens that a query sees at the most; None where no window slides.
        chunk: tokens of a chunk, beyond whose beginning nothing is seen; None without chunks.
        start: the position of the first token after the prefix.
        places: the position of each key of the prefix; hidden virtual tokens are not among them.
        prefix_always_visible: whether the prefix is seen from any distance.
    """

    window: int | None = None
    chunk: int | None = None
    start: int = 0
    places: Sequence[int] = range(0)
    prefix_always_visible: bool = False

    def hides(self, tokens: int) -> bool:
        """Whether it hides anything in sequences of so many tokens, the prefix included."""
        return self.first(tokens - 1) > 0

    def first(self, position: int) -> int:
        """The first position that a query at `position` sees."""
        window = 0 if self.window is None else position - self.window + 1
        chunk = 0 if self.chunk is None else position - position % self.chunk
        return max(0, window, chunk)

    def of_row(self, lengths: Sequence[int]) -> Horizon:
        """The horizon of a row of examples."""
        return _of_row(self, tuple(lengths))

    def of_tokens(self, counts: Iterable[int]) -> Horizon:
        """The horizon of tokens that follow `counts` others of their example."""
        firsts = [self.first(self.start + count) for count in counts]
        return Horizon(
            tuple(max(0, first - self.start) for first in firsts),
            tuple(
                0 if self.prefix_always_visible else bisect_left(self.places, first)
                for first in firsts
            ),
        )


# Every layer of a kind asks for the same, forward and backward.
@lru_cache(maxsize=8)
def _of_row(sight: Sight, lengths: tuple[int, ...]) -> Horizon:
    return sight.of_tokens(count for length in lengths for count in range(length))
