"""The loss of a whole split's targets."""

import torch
from datasets import Dataset

from pipeline.data.batching import Example, by_length
from pipeline.data.measuring import over_batches
from pipeline.distributed.ranks import ALONE, Ranks
from pipeline.loss.for_model import loss_columns, loss_for
from pipeline.prefix import PrefixModel


def target_loss_of(
    model: PrefixModel,
    split: Dataset,
    max_tokens: int,
    name: str | None = None,
    ranks: Ranks = ALONE,
) -> float:
    """Nats per target token over all examples of a split, each token weighing the same.

    `max_tokens` bounds a batch's rows times (prefix + example); `name` shows a progress bar. Of
    several processes each measures its share, and all return the same.
    """
    # As a list: random access to an Arrow table costs more than the batch's padding.
    rows = split.select_columns(loss_columns(split)).to_list()
    sizes = [len(row["input_ids"]) for row in rows]
    own = ranks.shares(rows, sizes)[ranks.rank]
    lengths = [model.prefix_length + len(row["input_ids"]) for row in own]
    loss_of = loss_for(model)
    title = None if name is None else f"loss {name}"

    def parts(examples: list[Example]) -> list[list[Example]]:
        return [examples] if ranks.size == 1 else loss_of.parts(examples)

    def measure(examples: list[Example]) -> float:
        return sum(float(loss_of(part).item()) for part in parts(examples))

    # As many calls in every process, for the sake of sharded weights (see `parts_of`).
    batches = [[own[i] for i in batch] for batch in by_length(lengths, max_tokens)]
    calls = sum(len(parts(batch)) for batch in batches)
    idle = ranks.largest(calls) - calls
    total = 0.0
    for _, loss in over_batches(measure, own, lengths, max_tokens, title):
        total += loss
    with torch.inference_mode():
        for _ in range(idle):
            loss_of([rows[sizes.index(min(sizes))]])
    return ranks.sum(total) / sum(len(row["input_ids"]) - row["target_start"] for row in rows)
