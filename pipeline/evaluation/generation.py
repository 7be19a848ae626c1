"""Greedy generation for a whole split."""

from typing import TYPE_CHECKING, Any

from pipeline.batching import by_length
from pipeline.config.training import EvaluateParams

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


def generate(
    model: Any,
    tokenizer: "PreTrainedTokenizerBase",
    split: "Dataset",
    params: EvaluateParams,
    prefix_length: int,
    name: str,
) -> list[str]:
    """The model's greedy continuation of each example's input, in the split's order.

    Batches hold inputs of like length, padded on the left, within `params.max_tokens_per_batch`.
    """
    import torch
    from tqdm import tqdm

    rows = split.select_columns(["input_ids", "target_start"]).to_list()
    inputs = [row["input_ids"][: row["target_start"]] for row in rows]
    lengths = [prefix_length + len(ids) + params.max_new_tokens for ids in inputs]
    texts = [""] * len(inputs)
    bar = tqdm(total=len(inputs), desc=f"generate {name}", unit="example")
    with torch.inference_mode(), bar:
        for indices in by_length(lengths, params.max_tokens_per_batch):
            encoded = tokenizer.pad(
                {"input_ids": [inputs[i] for i in indices]},
                padding_side="left",
                return_tensors="pt",
            ).to(model.device)
            output = model.generate(
                **encoded,
                max_new_tokens=params.max_new_tokens,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
            )
            new = output[:, encoded["input_ids"].shape[1] :]
            decoded = tokenizer.batch_decode(new, skip_special_tokens=True)
            for index, text in zip(indices, decoded, strict=True):
                texts[index] = text.strip()
            bar.update(len(indices))
    return texts
