"""The loss of a whole split's targets."""

from collections.abc import Iterable

import torch
from datasets import Dataset

from pipeline.data.batching import Example, by_length
from pipeline.data.measuring import over_batches
from pipeline.data.rows import TokenizedRows, rows_of
from pipeline.distributed.ranks import ALONE, Ranks
from pipeline.loss.causal import TargetLoss
from pipeline.loss.distillation import DistillationLoss
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
    return losses_of(model, loss_for(model), split, max_tokens, name, ranks)[0]


def losses_of(
    model: PrefixModel,
    loss_of: TargetLoss,
    split: Dataset | TokenizedRows,
    max_tokens: int,
    name: str | None = None,
    ranks: Ranks = ALONE,
) -> list[float]:
    """What `target_loss_of` gives, and where `loss_of` compares with a teacher's predictions the
    divergence from them, nats per target token too."""
    rows = rows_of(split, loss_columns(split))
    own = rows if ranks.size == 1 else _share(rows, ranks)
    lengths = model.prefix_length + own.tokens
    title = None if name is None else f"loss {name}"

    def parts(examples: list[Example]) -> list[list[Example]]:
        return [examples] if ranks.size == 1 else loss_of.parts(examples)

    def measure(examples: list[Example]) -> list[float]:
        return _added(_measured(loss_of, part) for part in parts(examples))

    idle = 0
    if ranks.size > 1:
        # As many calls in every process, for the sake of sharded weights (see `parts_of`); counted
        # before the first, since who asked after its last would wait for who still calls.
        batches = by_length(lengths, max_tokens)
        calls = sum(len(parts([own[i] for i in batch])) for batch in batches)
        idle = ranks.largest(calls) - calls
    batched = over_batches(measure, own, lengths, max_tokens, title)
    totals = _added(losses for _, losses in batched) if batched else _nothing(loss_of)
    with torch.inference_mode():
        for _ in range(idle):
            loss_of([rows[int(rows.tokens.argmin())]])
    targets = int((rows.tokens - rows.target_starts).sum())
    return [ranks.sum(total) / targets for total in totals]


def _measured(loss_of: TargetLoss, examples: list[Example]) -> list[float]:
    if isinstance(loss_of, DistillationLoss):
        return list(loss_of.measured(examples))
    return [float(loss_of(examples).item())]


def _nothing(loss_of: TargetLoss) -> list[float]:
    """Of no examples: a process may have none of a small split."""
    return [0.0] * (2 if isinstance(loss_of, DistillationLoss) else 1)


def _added(losses: Iterable[list[float]]) -> list[float]:
    return [sum(of_one) for of_one in zip(*losses, strict=True)]


def _share(rows: TokenizedRows, ranks: Ranks) -> TokenizedRows:
    sizes = rows.tokens.tolist()
    return rows.select(ranks.shares(range(len(sizes)), sizes)[ranks.rank])
