"""`python -m benchmarks.classification`: classifying by prefix, here and with PEFT.

A tiny BERT learns to fill in the words of the factbook's records, is frozen, and has to name the
section of the book that a record is from (data/raw, of a pinned wheel). Prefix and head are trained
on the same batches for the same steps, with one learning rate out of several chosen on validation.
"""

import copy
import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import click
import torch
from tabulate import tabulate
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

from pipeline.prefix import PrefixConfig, PrefixModel, kv_prefix_from_tokens

PAD, UNKNOWN, MASK, CLS = range(4)
RATES = (0.003, 0.01, 0.03)
LONGEST = 48

Example = tuple[list[int], int]


class Records:
    """The records as ids of words, and their sections as labels."""

    def __init__(self, folder: Path) -> None:
        splits = {name: _rows(folder / f"{name}.jsonl") for name in ("train", "validation", "test")}
        counts = Counter(word for row in splits["train"] for word in _words(row["record"]))
        known = [word for word, count in counts.most_common() if count > 1]
        self.vocabulary = {word: index + 4 for index, word in enumerate(known)}
        self.labels = sorted({row["section"] for row in splits["train"]})
        self.splits = {
            name: [
                (self._ids(row["record"]), self.labels.index(row["section"]))
                for row in rows
                if row["section"] in self.labels
            ]
            for name, rows in splits.items()
        }

    def _ids(self, text: str) -> list[int]:
        words = [self.vocabulary.get(word, UNKNOWN) for word in _words(text)]
        return [CLS, *words][:LONGEST]


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+|[^a-z\s]", text.lower())


def padded(rows: list[list[int]]) -> dict[str, torch.Tensor]:
    """Ids and mask `[rows, tokens]`, padded on the right."""
    width = max(map(len, rows))
    ids = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": (ids != PAD).long()}


def filled_in(records: Records, steps: int) -> BertForMaskedLM:
    """A BERT of two layers that has learned to fill in masked words of the training records."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(records.vocabulary) + 4,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=128,
        pad_token_id=PAD,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = BertForMaskedLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    draw = random.Random(0)
    for _ in range(steps):
        batch = padded([ids for ids, _ in draw.sample(records.splits["train"], 32)])
        hidden = (torch.rand(batch["input_ids"].shape) < 0.2) & batch["attention_mask"].bool()
        labels = batch["input_ids"].masked_fill(~hidden, -100)
        batch["input_ids"] = batch["input_ids"].masked_fill(hidden, MASK)
        loss = model(**batch, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def classifier(encoder: BertForMaskedLM, labels: int) -> BertForSequenceClassification:
    """A classifier on a copy of the encoder, its head drawn anew from the current seed."""
    config = copy.deepcopy(encoder.config)
    config.num_labels = labels
    model = BertForSequenceClassification(config).eval()
    model.bert.load_state_dict(encoder.bert.state_dict(), strict=False)
    return model


def build(system: str, encoder: BertForMaskedLM, records: Records, p: int, seed: int) -> Any:
    """A system before training: a prefix of p virtual tokens and a head."""
    torch.manual_seed(seed)
    frozen = classifier(encoder, len(records.labels))
    if system == "PEFT":
        from peft import PrefixTuningConfig, get_peft_model

        return get_peft_model(frozen, PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=p))
    model = PrefixModel(frozen, PrefixConfig(p, modules_to_save=("classifier",)))
    if system == "ours, from a text":
        words = [word for ids, _ in records.splits["train"][:8] for word in ids]
        model.load_kv_prefix(kv_prefix_from_tokens(frozen, words[:p]))
    return model


def train(model: Any, records: Records, seed: int, rate: float, steps: int) -> None:
    """Adam with a rate that falls to 0, on batches of 16 drawn with `seed`."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    draw = random.Random(seed)
    for _ in range(steps):
        chosen = draw.sample(records.splits["train"], 16)
        labels = torch.tensor([label for _, label in chosen])
        loss = model(**padded([ids for ids, _ in chosen]), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def measured(model: Any, examples: list[Example]) -> tuple[float, float, float]:
    """Loss (nats), accuracy and macro F1."""
    from sklearn.metrics import accuracy_score, f1_score

    model.eval()
    labels = [label for _, label in examples]
    logits = model(**padded([ids for ids, _ in examples])).logits
    found = logits.argmax(-1).tolist()
    loss = float(torch.nn.functional.cross_entropy(logits, torch.tensor(labels)))
    return loss, accuracy_score(labels, found), f1_score(labels, found, average="macro")


SYSTEMS = ("PEFT", "ours", "ours, from a text")


@click.command()
@click.option("--p", default=16, show_default=True, help="Virtual tokens.")
@click.option("--seeds", default=3, show_default=True, help="How many seeds, from 0 on.")
@click.option("--steps", default=150, show_default=True, help="Training steps.")
@click.option("--pretraining", default=600, show_default=True, help="Steps of the model itself.")
@click.option("--data", default="data/raw", show_default=True, type=Path)
def main(p: int, seeds: int, steps: int, pretraining: int, data: Path) -> None:
    """Print accuracy and F1 on the test split, of PEFT's prefix tuning and of ours."""
    if not (data / "train.jsonl").exists():
        raise click.ClickException(f"there is no data in {data}; run `dvc repro fetch_data`")
    records = Records(data)
    encoder = filled_in(records, pretraining)
    most = Counter(label for _, label in records.splits["test"]).most_common(1)[0][1]
    share = most / len(records.splits["test"])
    click.echo(f"{len(records.labels)} sections; always naming the most frequent: {share:.1%}")
    rows = []
    for system in SYSTEMS:
        for seed in range(seeds):
            tried = []
            for rate in RATES:
                model = build(system, encoder, records, p, seed)
                train(model, records, seed, rate, steps)
                tried.append((measured(model, records.splits["validation"])[0], rate, model))
            _, rate, model = min(tried, key=lambda row: row[:2])
            loss, accuracy, f1 = measured(model, records.splits["test"])
            count = sum(q.numel() for q in model.parameters() if q.requires_grad)
            rows.append([system, seed, count, rate, f"{loss:.3f}", f"{accuracy:.1%}", f"{f1:.1%}"])
    headers = ["system", "seed", "parameters", "rate", "test loss", "accuracy", "F1"]
    click.echo(tabulate(rows, headers, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
