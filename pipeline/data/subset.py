"""Training on fewer examples: the first of a seeded shuffle of the training split."""

import random

from datasets import Dataset

from pipeline.errors import PipelineError


def subset(train: Dataset, size: int | None, seed: int) -> Dataset:
    """`size` examples of a split, or all of it for None.

    With one seed every smaller subset lies in every larger one, and all initialisations and
    baselines meet the same; another seed draws others, so that the spread over seeds holds the
    luck of the draw.

    Raises:
        PipelineError: when the split has fewer.
    """
    if size is None:
        return train
    if size > len(train):
        raise PipelineError(
            f"sweep.train_sizes: {size} is above the {len(train)} examples of the training split; "
            "lower it, or raise data.max_examples.train"
        )
    order = list(range(len(train)))
    random.Random(seed).shuffle(order)
    return train.select(order[:size])
