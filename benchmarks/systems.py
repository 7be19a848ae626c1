"""The systems compared: each trains and evaluates the same examples from the same start."""

import random
from collections.abc import Iterator
from typing import Any, Protocol

import torch

Examples = list[dict[str, Any]]
BATCH = 8
NEW_TOKENS = 32
RATE = 5e-3


class System(Protocol):
    """One way to train a prefix and to evaluate it."""

    def step(self) -> int:
        """One optimizer step over one batch; returns its real tokens, padding not counted."""

    def evaluate(self, rows: Examples) -> float:
        """Losses of the targets, and a greedy continuation of each input; returns a mean loss."""


class Ours:
    """This project: packed examples, attention merged with the prefix, logits at targets.

    `compiled` as the pipeline's trainings of 600 steps and more.
    """

    def __init__(
        self, frozen: Any, p: int, rows: Examples, start: Any, compiled: bool = False
    ) -> None:
        from pipeline.loss.causal import TargetLoss
        from pipeline.prefix import PrefixConfig, PrefixModel
        from pipeline.training.compilation import compile_layers

        self.model = PrefixModel(frozen, PrefixConfig(num_virtual_tokens=p))
        self.model.load_kv_prefix(start)
        self.loss = TargetLoss(self.model)
        self.batches = shuffled(rows)
        self.optimizer = torch.optim.AdamW(self.model.encoder.parameters(), lr=RATE, fused=True)
        if compiled:
            compile_layers(frozen)

    def loss_of(self, batch: Examples) -> torch.Tensor:
        """The mean loss of a batch's targets."""
        targets = sum(len(row["input_ids"]) - row["target_start"] for row in batch)
        parts = self.loss.parts(batch)
        return torch.as_tensor(sum(self.loss(part, 1 / targets) for part in parts))

    def step(self) -> int:
        batch = next(self.batches)
        self.model.train()
        self.optimizer.zero_grad()
        self.loss_of(batch).backward()
        torch.nn.utils.clip_grad_norm_(self.model.encoder.parameters(), 1.0)
        self.optimizer.step()
        return real_tokens(batch)

    def evaluate(self, rows: Examples) -> float:
        from datasets import Dataset

        from pipeline.config.evaluate import EvaluateParams
        from pipeline.evaluation.generation import measure_examples
        from pipeline.training.compilation import uncompiled

        self.model.eval()
        params = EvaluateParams(splits=["test"], max_new_tokens=NEW_TOKENS)
        with uncompiled():
            outcomes = measure_examples(
                self.model, _NoText(), Dataset.from_list(rows), params, "ours", 4096
            )
        targets = sum(len(row["input_ids"]) - row["target_start"] for row in rows)
        return sum(outcome.loss for outcome in outcomes) / targets


class Peft:
    """PEFT's prefix tuning in the plain loop: padded batches, labels -100 outside the target.

    With `grouped`, batches hold rows of like length, as transformers' `group_by_length` makes
    them: shuffled, cut into stretches of 50 batches, each stretch sorted by length.
    """

    def __init__(self, frozen: Any, p: int, rows: Examples, start: Any, grouped: bool) -> None:
        from peft import PrefixTuningConfig, get_peft_model

        from pipeline.prefix.parameters.flat import flatten

        config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=p)
        self.model = get_peft_model(frozen, config)
        with torch.no_grad():
            self.model.prompt_encoder["default"].embedding.weight.copy_(flatten(start))
        self.batches = length_grouped(rows) if grouped else shuffled(rows)
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=RATE, fused=True)

    def parameters(self) -> list[torch.nn.Parameter]:
        """What is trained."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def loss_of(self, batch: Examples) -> torch.Tensor:
        """The mean loss of a batch's targets, by the model itself."""
        inputs = padded(batch, side="right")
        loss: torch.Tensor = self.model(**inputs).loss
        return loss

    def step(self) -> int:
        batch = next(self.batches)
        self.model.train()
        self.optimizer.zero_grad()
        self.loss_of(batch).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters(), 1.0)
        self.optimizer.step()
        return real_tokens(batch)

    @torch.no_grad()
    def evaluate(self, rows: Examples) -> float:
        self.model.eval()
        total, targets = 0.0, 0
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            count = sum(len(row["input_ids"]) - row["target_start"] for row in batch)
            total += float(self.loss_of(batch)) * count
            targets += count
            shown = [{**row, "input_ids": row["input_ids"][: row["target_start"]]} for row in batch]
            inputs = padded(shown, side="left")
            inputs.pop("labels")
            self.model.generate(
                **inputs,
                max_new_tokens=NEW_TOKENS,
                min_new_tokens=NEW_TOKENS,
                do_sample=False,
                pad_token_id=0,
            )
        return total / targets


class _NoText:
    """Stands in for the tokenizer where the text of random tokens is of no interest."""

    eos_token_id = None

    def batch_decode(self, rows: list[list[int]], **_: Any) -> list[str]:
        return [" ".join(map(str, row)) for row in rows]


def real_tokens(batch: Examples) -> int:
    """Tokens of a batch, padding not counted."""
    return sum(len(row["input_ids"]) for row in batch)


def shuffled(rows: Examples, seed: int = 0) -> Iterator[Examples]:
    """Batches of `BATCH` rows in a seeded order, without end."""
    draw = random.Random(seed)
    while True:
        order = draw.sample(rows, len(rows))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            yield order[start : start + BATCH]


def length_grouped(rows: Examples, seed: int = 0) -> Iterator[Examples]:
    """As `shuffled`, with rows of like length in a batch; the batches' order is shuffled again."""
    draw = random.Random(seed)
    stretch = 50 * BATCH
    while True:
        order = draw.sample(rows, len(rows))
        batches = []
        for start in range(0, len(order), stretch):
            part = sorted(order[start : start + stretch], key=lambda row: len(row["input_ids"]))
            batches += [part[i : i + BATCH] for i in range(0, len(part) - BATCH + 1, BATCH)]
        yield from draw.sample(batches, len(batches))


def padded(batch: Examples, side: str) -> dict[str, torch.Tensor]:
    """`input_ids`, `attention_mask` and `labels` `[rows, longest]`."""
    width = max(len(row["input_ids"]) for row in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, -100)
    for index, row in enumerate(batch):
        length = len(row["input_ids"])
        begin = width - length if side == "left" else 0
        tokens = torch.tensor(row["input_ids"])
        ids[index, begin : begin + length] = tokens
        mask[index, begin : begin + length] = 1
        start = row["target_start"]
        labels[index, begin + start : begin + length] = tokens[start:]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
