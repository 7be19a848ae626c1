"""`python -m benchmarks.matching`: a text in few keys and values, three ways, before training.

The loss of validation's targets after the first p tokens of a text, after those that training
inputs attend to most, and after keys and values by Attention Matching, for two texts of the default
sweep. Beside it what attention's outputs lack of those after the whole text, by queries of
validation examples, and what they would lack with the bias of each key that the paper has.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
from tabulate import tabulate

from pipeline.prefix import (
    KVPrefix,
    PrefixConfig,
    PrefixModel,
    attention_matching,
    kv_prefix_from_tokens,
    most_attended,
)
from pipeline.prefix.starts.matching import heads_to_match
from pipeline.prefix.starts.matching_head import HeadToMatch
from pipeline.prefix.starts.matching_queries import ReferenceQueries, reference_queries

TEXTS = ("data/kv_prefix/demonstrations/text.txt", "corpora/reading_records.txt")
STARTS = ("first tokens", "most attended", "attention matching")


@click.command()
@click.option("--texts", default=",".join(TEXTS), show_default=True, help="Files, by commas.")
@click.option("--lengths", default="8,32,64", show_default=True, help="Virtual tokens.")
@click.option("--tokens", default=384, show_default=True, help="The most of a text.")
@click.option("--examples", default=16, show_default=True, help="Training examples that judge.")
@click.option("--steps", default=0, show_default=True, help="Also after so many training steps.")
@click.option("--data", default="data", show_default=True, type=Path)
def main(texts: str, lengths: str, tokens: int, examples: int, steps: int, data: Path) -> None:
    """Print tables of losses and of attention's outputs, computing in bfloat16."""
    if not (data / "model" / "config.json").exists() or not Path(texts.split(",")[0]).exists():
        raise click.ClickException(f"{data} or a text is not there; run `dvc repro kv_prefix`")
    bench = _Bench(data, examples)
    for text in texts.split(","):
        kv = bench.whole(Path(text), tokens)
        click.echo(
            f"{text}, {len(kv)} tokens: loss {bench.loss(None):.3f} after nothing, "
            f"{bench.loss(kv):.3f} after all of it"
        )
        rows, outputs = [], []
        for p in map(int, lengths.split(",")):
            starts = bench.starts(kv, p)
            rows.append([p, *(f"{bench.loss(start):.3f}" for start in starts)])
            if steps:
                rows[-1] += [f"{bench.trained(start, steps):.3f}" for start in starts]
            outputs.append([p, *(f"{100 * share:.1f}%" for share in bench.lacking(kv, p))])
            click.echo(" ".join(map(str, [*rows[-1], *outputs[-1]])), err=True)
        after = [f"{name}, after {steps} steps" for name in STARTS] if steps else []
        _show(["p", *STARTS, *after], rows)
        _show(["p", "first tokens", "attention matching", "with a bias of each key"], outputs)


def _show(headers: list[str], rows: list[list[Any]]) -> None:
    click.echo("\n" + tabulate(rows, headers, tablefmt="github", disable_numparse=True) + "\n")


class _Bench:
    """The default task's frozen model and examples."""

    def __init__(self, data: Path, examples: int) -> None:
        from pipeline.data.splits import load_split
        from pipeline.models.frozen import load_frozen_model
        from pipeline.models.tokenizer import load_tokenizer
        from pipeline.schema.compute import Compute

        self.frozen = load_frozen_model(
            data / "model", Compute(device="cpu", dtype="bfloat16")
        ).requires_grad_(False)
        self.tokenizer = load_tokenizer(data / "model")
        self.train, self.validation = (
            load_split(data / "tokenized" / "splits", name) for name in ("train", "validation")
        )
        chosen = list(self.train.select(range(examples)))
        self.inputs = [row["input_ids"][: row["target_start"]] for row in chosen]
        self.examples = [row["input_ids"] for row in chosen]
        self.held_out = [row["input_ids"] for row in self.validation.select(range(examples))]

    def whole(self, path: Path, most: int) -> KVPrefix:
        """The keys and values of a text file."""
        ids = self.tokenizer.encode(path.read_text(encoding="utf-8"))
        return kv_prefix_from_tokens(self.frozen, ids[:most])

    def model(self, kv: KVPrefix | None) -> PrefixModel:
        """The frozen model after a prefix, or after nothing."""
        if kv is None:
            return PrefixModel(self.frozen)
        model = PrefixModel(self.frozen, PrefixConfig(len(kv))).eval()
        model.load_kv_prefix(kv)
        return model

    def loss(self, kv: KVPrefix | None) -> float:
        """Of validation's targets, in nats per token."""
        from pipeline.training.validation import target_loss_of

        return target_loss_of(self.model(kv), self.validation, 4096)

    def starts(self, kv: KVPrefix, p: int) -> list[KVPrefix]:
        """The three ways to a prefix of p virtual tokens."""
        whole = self.model(kv)
        return [
            kv[:p],
            most_attended(whole, kv, p, self.inputs),
            attention_matching(whole, kv, p, self.examples),
        ]

    def trained(self, start: KVPrefix, steps: int) -> float:
        """The loss of validation after a training from there, the same examples for each start."""
        from pipeline.config.train import TrainParams
        from pipeline.training.loop import train_prefix

        model = self.model(start)
        params = TrainParams(epochs=None, max_steps=steps, compile=False)
        train_prefix(model, self.train, self.validation, params, seed=0, log_step=lambda *_: None)
        kv = model.kv_prefix()
        model.detach()
        return self.loss(kv)

    def lacking(self, kv: KVPrefix, p: int) -> list[float]:
        """Of held-out queries the share of attention's outputs that is missing, over all heads."""
        whole = self.model(kv)
        chosen, held_out = (
            reference_queries(whole, kv, examples, 1024)
            for examples in (self.examples, self.held_out)
        )
        errors = [
            _lacking(of_head, held, p)
            for key, value, judged, beside in zip(kv.keys, kv.values, chosen, held_out, strict=True)
            for of_head, held in zip(
                heads_to_match(*_with_bias(key, value, judged)),
                heads_to_match(*_with_bias(key, value, beside)),
                strict=True,
            )
        ]
        return [float(share) for share in torch.tensor(errors).mean(0)]


def _with_bias(
    key: torch.Tensor, value: torch.Tensor, reference: ReferenceQueries
) -> tuple[torch.Tensor, torch.Tensor, ReferenceQueries]:
    """A layer with one more dimension, in which keys have a bias (0) and queries 1."""
    queries = torch.cat([reference.queries, torch.ones_like(reference.queries[..., :1])], -1)
    biased = torch.cat([key, torch.zeros_like(key[..., :1])], -1)
    return biased, value, replace(reference, queries=queries)


def _lacking(head: HeadToMatch, held_out: HeadToMatch, p: int) -> list[float]:
    """What held-out queries lack after the first tokens, matched ones, and these with a bias."""
    chosen = head.tokens(p)
    kept, values = head.keys[chosen], head.values[chosen]
    biased = kept.clone()
    biased[:, -1] = _bias(head.shares[:, chosen], head.shares.sum(1))
    return [
        held_out.error(head.keys[:p], head.values[:p]),
        held_out.error(kept, head.matched_values(kept, values)),
        held_out.error(biased, head.matched_values(biased, values)),
    ]


def _bias(shares: torch.Tensor, mass: torch.Tensor) -> torch.Tensor:
    """Biases `[p]` with which attention to a few keys sums up to that to all (section 3.2 there).

    Least squares of weights that are not negative, by the multiplicative updates of Lee and Seung.
    """
    gram, wanted = shares.T @ shares, shares.T @ mass
    weights = torch.ones_like(wanted)
    for _ in range(300):
        weights = weights * (wanted + 1e-12) / (gram @ weights + 1e-12)
    return weights.clamp(min=1e-6).log()


if __name__ == "__main__":
    main()
