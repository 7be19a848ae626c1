"""The loss of a whole split's targets."""

from datasets import Dataset

from pipeline.data.batching import Example
from pipeline.data.measuring import over_batches
from pipeline.data.rows import TokenizedRows, rows_of
from pipeline.loss.for_model import loss_columns, loss_for
from pipeline.prefix import PrefixModel


def target_loss_of(
    model: PrefixModel,
    split: Dataset | TokenizedRows,
    max_tokens: int,
    name: str | None = None,
) -> float:
    """Nats per target token over all examples of a split, each token weighing the same.

    `max_tokens` bounds a batch's rows times (prefix + example); `name` shows a progress bar.
    """
    rows = rows_of(split, loss_columns(split))
    lengths = model.prefix_length + rows.tokens
    loss_of = loss_for(model)
    title = None if name is None else f"loss {name}"

    def measure(examples: list[Example]) -> float:
        return float(loss_of(examples).item())

    total = 0.0
    for _, loss in over_batches(measure, rows, lengths, max_tokens, title):
        total += loss
    return total / int((rows.tokens - rows.target_starts).sum())
