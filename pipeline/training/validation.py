"""The loss of a whole split's targets."""

import torch
from datasets import Dataset

from pipeline.data.batching import Example, by_length
from pipeline.data.measuring import over_batches
from pipeline.data.rows import TokenizedRows, rows_of
from pipeline.distributed.ranks import ALONE, Ranks
from pipeline.loss.for_model import loss_columns, loss_for
from pipeline.prefix import PrefixModel


def target_loss_of(
    model: PrefixModel,
    split: Dataset | TokenizedRows,
    max_tokens: int,
    name: str | None = None,
    ranks: Ranks = ALONE,
) -> float:
    """Nats per target token over all examples of a split, each token weighing the same.

    `max_tokens` bounds a batch's rows times (prefix + example); `name` shows a progress bar. Of
    several processes each measures its share, and all return the same.
    """
    rows = rows_of(split, loss_columns(split))
    own = rows if ranks.size == 1 else _share(rows, ranks)
    lengths = model.prefix_length + own.tokens
    loss_of = loss_for(model)
    title = None if name is None else f"loss {name}"

    def parts(examples: list[Example]) -> list[list[Example]]:
        return [examples] if ranks.size == 1 else loss_of.parts(examples)

    def measure(examples: list[Example]) -> float:
        return sum(float(loss_of(part).item()) for part in parts(examples))

    idle = 0
    if ranks.size > 1:
        # As many calls in every process, for the sake of sharded weights (see `parts_of`); counted
        # before the first, since who asked after its last would wait for who still calls.
        batches = by_length(lengths, max_tokens)
        calls = sum(len(parts([own[i] for i in batch])) for batch in batches)
        idle = ranks.largest(calls) - calls
    total = 0.0
    for _, loss in over_batches(measure, own, lengths, max_tokens, title):
        total += loss
    with torch.inference_mode():
        for _ in range(idle):
            loss_of([rows[int(rows.tokens.argmin())]])
    return ranks.sum(total) / int((rows.tokens - rows.target_starts).sum())


def _share(rows: TokenizedRows, ranks: Ranks) -> TokenizedRows:
    sizes = rows.tokens.tolist()
    return rows.select(ranks.shares(range(len(sizes)), sizes)[ranks.rank])
