"""Which examples a model scores and continues in one batch, and what it costs that some are apart.

Packed rows stand beside any others. Padded ones share a batch where padding leaves each what it is
alone: of a model that keeps states, which padding before a row would change, those of one length.
"""

import sys
from dataclasses import dataclass

import numpy as np

from pipeline.data.batching import by_length
from pipeline.prefix import PrefixModel


@dataclass(frozen=True)
class Group:
    """Examples, by their places, that batches are made of, and what one counts for (`by_length`).

    `most` bounds a batch.
    """

    is_packed: bool
    chosen: list[int]
    tokens: np.ndarray
    most: int

    @property
    def batches(self) -> int:
        """How many they are."""
        return len(by_length(self.tokens, self.most, self.is_packed))


def groups(
    model: PrefixModel, starts: np.ndarray, room: np.ndarray, max_tokens: int
) -> list[Group]:
    """The examples whose inputs have `starts` tokens, `room` with what follows them.

    Whether an example is packed or padded depends on its own length alone.
    """
    # The longest first: what serves it is tried once.
    served = {
        tokens: model.why_not_packed(decoding=True, tokens=tokens) is None
        for tokens in np.unique(room)[::-1].tolist()
    }
    # What is computed together: packed, or padded on the left to a common length.
    together: dict[tuple[bool, int], list[int]] = {}
    for i, (start, tokens) in enumerate(zip(starts.tolist(), room.tolist(), strict=True)):
        group = 0 if served[tokens] else model.padding_group(tokens, start)
        together.setdefault((served[tokens], group), []).append(i)
    found = []
    for (is_packed, _), chosen in sorted(together.items(), reverse=True):
        most = max_tokens
        if is_packed and model.most_packed is not None:
            most = min(most, model.most_packed)
        # What a row keeps in the cache: packed rows share one prefix.
        shared = 0 if is_packed else model.prefix_length
        found.append(Group(is_packed, chosen, shared + room[chosen], most))
    return found


class Apart:
    """What it costs a stage that rows of unlike length cannot share a batch."""

    def __init__(self, model: PrefixModel) -> None:
        self._model = model
        self._is_apart = model.keeps_states and model.padding != "left"
        self._batches = self._padded = self._examples = 0

    def add(self, found: list[Group]) -> None:
        """Count the batches of some examples, and those that padding would make of them."""
        padded = [group for group in found if not group.is_packed]
        if not self._is_apart or not padded:
            return
        self._batches += sum(group.batches for group in padded)
        self._padded += len(by_length(np.concatenate([g.tokens for g in padded]), padded[0].most))
        self._examples += sum(len(group.chosen) for group in padded)

    def tell(self) -> None:
        """Say it on stderr, where it costs something."""
        if self._batches > self._padded:
            print(
                f"note: {type(self._model.frozen_model).__name__} keeps states, which padding "
                f"before a row would change, so that only inputs of one length share a batch: "
                f"{self._batches} batches for {self._examples} examples, where padded ones would "
                f"be {self._padded}",
                file=sys.stderr,
            )
