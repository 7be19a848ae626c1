"""The loss of a whole split's targets."""

from datasets import Dataset

from pipeline.data.batching import Example
from pipeline.data.measuring import over_batches
from pipeline.loss.for_model import loss_columns, loss_for
from pipeline.prefix import PrefixModel


def target_loss_of(
    model: PrefixModel, split: Dataset, max_tokens: int, name: str | None = None
) -> float:
    """Nats per target token over all examples of a split, each token weighing the same.

    `max_tokens` bounds a batch's rows times (prefix + example); `name` shows a progress bar.
    """
    # As a list: random access to an Arrow table costs more than the batch's padding.
    rows = split.select_columns(loss_columns(split)).to_list()
    lengths = [model.prefix_length + len(row["input_ids"]) for row in rows]
    loss_of = loss_for(model)
    title = None if name is None else f"loss {name}"

    def measure(examples: list[Example]) -> float:
        return float(loss_of(examples).item())

    total = 0.0
    for _, loss in over_batches(measure, rows, lengths, max_tokens, title):
        total += loss
    return total / sum(len(row["input_ids"]) - row["target_start"] for row in rows)
