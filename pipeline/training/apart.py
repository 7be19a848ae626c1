"""What it costs a training that rows of unlike length cannot share a call."""

import sys
from itertools import islice

import numpy as np

from pipeline.data.batching import training_order
from pipeline.prefix import PrefixModel

_BATCHES = 100


def tell_if_apart(model: PrefixModel, tokens: np.ndarray, batch_size: int, seed: int) -> None:
    """Say on stderr how many calls batches come in, where padding on no side serves the model.

    `tokens` are those of each example of the training.
    """
    if not model.keeps_states or model.padding is not None:
        return
    batches = list(islice(training_order(len(tokens), batch_size, seed, len(tokens)), _BATCHES))
    calls = sum(len(np.unique(tokens[batch])) for batch in batches)
    print(
        f"note: {type(model.frozen_model).__name__} keeps states, which padding on either side of "
        f"a row would change, so that only examples of one length share a call: {calls} calls for "
        f"{len(batches)} batches of {batch_size}",
        file=sys.stderr,
    )
