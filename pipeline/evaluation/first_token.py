"""How long a single query waits for the first token of its answer."""

import time
from collections.abc import Sequence
from statistics import median

import torch

from pipeline.data.batching import Example
from pipeline.data.spread import spread
from pipeline.evaluation.padded_batch import PaddedBatch
from pipeline.prefix import PrefixModel

QUERIES = 5
"""Spread evenly over a split; their median is what is kept."""


@torch.inference_mode()
def first_token_ms(model: PrefixModel, rows: Sequence[Example]) -> float:
    """Milliseconds from a query to the choice of its answer's first token, one query at a time.

    The prefix, or the text before every query, is in the cache already, as a server keeps it. One
    query goes before those that are timed, since the first allocates. `rows` are tokenized examples
    of a decoder's split, which has at least one.
    """
    chosen = [rows[place] for place in spread(len(rows), QUERIES)]
    times = []
    for row in [chosen[0], *chosen]:
        began = time.perf_counter()
        # The number waits for a device that computes beside this process.
        PaddedBatch(model, [row], 0).last[0, -1].argmax().item()
        times.append(time.perf_counter() - began)
    return 1000 * median(times[1:])
