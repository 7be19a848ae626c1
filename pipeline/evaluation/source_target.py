"""Loss of the target and greedy generation of an encoder-decoder."""

from typing import TYPE_CHECKING, Any

from pipeline.batching import IGNORED, by_length
from pipeline.config.training import EvaluateParams
from pipeline.task_loss import SourceTargetLoss, loss_columns

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


def measure_source_targets(
    model: Any,
    tokenizer: "PreTrainedTokenizerBase",
    split: "Dataset",
    params: EvaluateParams,
    prefix_length: int,
    name: str,
) -> list[tuple[float, str]]:
    """Each example's summed loss (nats) and generated text, in the split's order.

    Generation is greedy, up to `params.max_new_tokens`, with the model's own settings otherwise
    (a forced first token, as mBART has it).
    """
    import torch
    from tqdm import tqdm

    rows = split.select_columns(loss_columns(split)).to_list()
    longest = [
        prefix_length + len(row["input_ids"]) + params.max_new_tokens for row in rows
    ]  # the tokens that one row can take up
    loss_of = SourceTargetLoss(model)
    outcomes: dict[int, tuple[float, str]] = {}
    bar = tqdm(total=len(rows), desc=f"evaluate {name}", unit="example")
    with torch.inference_mode(), bar:
        for indices in by_length(longest, params.max_tokens_per_batch):
            examples = [rows[i] for i in indices]
            losses = row_losses(*loss_of.logits(examples))
            generated = model.generate(
                **loss_of.inputs(examples),
                max_new_tokens=params.max_new_tokens,
                do_sample=False,
                num_beams=1,
            )
            texts = tokenizer.batch_decode(generated, skip_special_tokens=True)
            for index, loss, text in zip(indices, losses, texts, strict=True):
                outcomes[index] = (loss, text.strip())
            bar.update(len(indices))
    return [outcomes[index] for index in range(len(rows))]


def row_losses(logits: "torch.Tensor", labels: "torch.Tensor") -> list[float]:
    """The summed cross-entropy of each row of `[rows, targets, classes]`, in nats."""
    from torch.nn import functional as F

    losses = F.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return [float(row) for row in losses.view_as(labels).double().sum(dim=1)]
