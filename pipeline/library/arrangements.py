"""Which prefixes stand together where one document is asked about."""

import random
from collections.abc import Sequence
from math import perm

from pipeline.config.library import Together


def arrangements(name: str, documents: Sequence[str], together: Together) -> list[tuple[str, ...]]:
    """The orders in which a document's prefix stands among those of others, all distinct.

    All that there are where those are no more than `draws`, else as many drawn by the seed: the
    others, their order, and the place of its own.
    """
    others = sorted(other for other in documents if other != name)
    beside = together.count - 1
    most = min(together.draws, perm(len(others), beside) * together.count)
    draw = random.Random(f"{together.seed} {name}")
    found: dict[tuple[str, ...], None] = {}
    while len(found) < most:
        order = draw.sample(others, beside)
        order.insert(draw.randint(0, beside), name)
        found[tuple(order)] = None
    return sorted(found)
