"""The loss of a whole split's targets."""

import torch
from datasets import Dataset
from tqdm import tqdm

from pipeline.data.batching import by_length
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
    batches = by_length([model.prefix_length + len(row["input_ids"]) for row in rows], max_tokens)
    loss_of = loss_for(model)
    total, targets = 0.0, 0
    bar = tqdm(total=len(rows), desc=f"loss {name}", unit="example", disable=name is None)
    with torch.inference_mode(), bar:
        for indices in batches:
            examples = [rows[i] for i in indices]
            total += loss_of(examples).item()
            targets += sum(len(row["input_ids"]) - row["target_start"] for row in examples)
            bar.update(len(indices))
    return total / targets
