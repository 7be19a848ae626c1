"""What of its prefix a training example does not see: leave-one-out masking and token dropout.

A prefix that starts from training examples holds the answers of some of what it is trained on: it
need only be read out. So no example attends to the virtual tokens of its own demonstration, and in
each step a share of all virtual tokens is seen by none (Context Tuning, Lu et al. 2025, arXiv
2507.04221: "Leave-One-Out Masking" and "Token Dropout" of CT-KV). What is hidden keeps its place:
keys stay at their positions, and an input stands after all of them. Validation sees the whole.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.data.batching import Example

_NONE: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Group:
    """Examples that see the same of the prefix: all virtual tokens but those of `hidden`."""

    hidden: frozenset[int]
    examples: list[Example]


@dataclass(frozen=True)
class LeftOut:
    """The virtual tokens that are hidden from each example in each step.

    The draw depends on the seed and the step's number alone, so that a training that goes on from
    a checkpoint meets what it would have met.

    Attributes:
        length: virtual tokens of the prefix.
        token_dropout: the probability of each to be seen by no example of a step, in [0, 1).
        num_frozen_tokens: the first ones, which no draw leaves out.
        seed: of the draw.
        demonstrations: of training examples, by their ids, the virtual tokens that came from them.
    """

    length: int
    token_dropout: float = 0.0
    num_frozen_tokens: int = 0
    seed: int = 0
    demonstrations: Mapping[str, frozenset[int]] = field(default_factory=dict)

    def dropped(self, step: int) -> frozenset[int]:
        """The virtual tokens that no example of a step sees; at least one other is left."""
        if not self.token_dropout:
            return _NONE
        draw = random.Random(f"token dropout of seed {self.seed}, step {step}")
        tokens = range(self.num_frozen_tokens, self.length)
        found = frozenset(token for token in tokens if draw.random() < self.token_dropout)
        return found - {draw.choice(tokens)} if len(found) == self.length else found

    def own(self, example: Example) -> frozenset[int]:
        """The virtual tokens that came from an example.

        The answers of one conversation (`task.loss_on: all`) are examples `x#1`, `x#2`, ... and `x`
        of the row `x`, which is one demonstration.
        """
        if not self.demonstrations:
            return _NONE
        name = str(example["id"])
        if name in self.demonstrations:
            return self.demonstrations[name]
        row, _, number = name.rpartition("#")
        return self.demonstrations.get(row, _NONE) if number.isdigit() else _NONE

    def groups(self, step: int, examples: Sequence[Example], begins_at: int = 0) -> list[Group]:
        """Examples of a step, together with those that see the same, in the order of the first.

        `begins_at` are the virtual tokens of other prefixes that stand before this one's.
        """
        dropped = self.dropped(step)
        found: dict[frozenset[int], list[Example]] = {}
        for example in examples:
            found.setdefault(dropped | self.own(example), []).append(example)
        return [
            Group(frozenset(begins_at + token for token in hidden), own)
            for hidden, own in found.items()
        ]


NOTHING = LeftOut(0)
"""Of a training whose examples see the whole prefix."""
