"""`python -m benchmarks.leave_one_out`: what a training from demonstrations gains by hiding them.

The default task and its demonstrations, trained four ways: with the whole prefix, with each
example's own demonstration hidden from it (`prefix.leave_one_out`), with a share of virtual tokens
hidden in each step (`prefix.token_dropout`), and with both.
"""

import os
from pathlib import Path

import click
import torch
from tabulate import tabulate

WAYS = ("neither", "leave-one-out", "token dropout", "both")


@click.command()
@click.option("--length", default=32, show_default=True, help="Virtual tokens.")
@click.option("--steps", default=30, show_default=True, help="Optimizer steps.")
@click.option("--seed", default=0, show_default=True)
@click.option("--token-dropout", default=0.1, show_default=True)
@click.option("--ways", default=",".join(WAYS), show_default=True, help="Which, by commas.")
@click.option("--shown", is_flag=True, help="Train on the examples in the prefix alone.")
def main(length: int, steps: int, seed: int, token_dropout: float, ways: str, shown: bool) -> None:
    """Print a row of losses for each way, computing as `train` of params.yaml says."""
    if not Path("data/tokenized/splits").exists():
        raise click.ClickException("data/tokenized is not there; run `dvc repro tokenize`")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from pipeline.config import load_params
    from pipeline.data.splits import load_split
    from pipeline.models.for_initialization import ForInitialization
    from pipeline.models.frozen import load_frozen_model
    from pipeline.prefix.demonstrated import tokens_of
    from pipeline.workspace import paths

    params = load_params()
    kept = params.kv_prefix.model_copy(update={"max_length": length})
    context = ForInitialization(params.model_copy(update={"kv_prefix": kept}), "demonstrations")
    cached = params.initializations["demonstrations"].cached(context)
    if cached is None or cached.kv is None:
        raise click.ClickException("initializations.demonstrations has no KV cache")
    kv = cached.kv
    own = tokens_of(kv.metadata) or {}
    train, validation = (load_split(paths.TOKENIZED / "splits", n) for n in ("train", "validation"))
    places = [at for at, name in enumerate(train["id"]) if name in own]
    click.echo(
        f"{length} virtual tokens from {len(own)} demonstrations, {len(places)} of which are among "
        f"the {len(train)} training examples"
    )
    if shown:
        train = train.select(places)
    frozen = load_frozen_model(paths.MODEL, params.train).requires_grad_(False)
    rows = []
    for way in ways.split(","):
        dropout = token_dropout if way in ("token dropout", "both") else 0.0
        hidden = own if way in ("leave-one-out", "both") else {}
        rows.append([way, *_losses(frozen, kv, train, validation, (steps, seed, dropout, hidden))])
        click.echo(" ".join(map(str, rows[-1])), err=True)
    headers = ["hidden in training", "last 10 steps", "validation, start", "best", "end"]
    click.echo("\n" + tabulate(rows, headers, tablefmt="github", disable_numparse=True) + "\n")


def _losses(frozen, kv, train, validation, how) -> list[str]:  # type: ignore[no-untyped-def]
    """Nats per target token: of the last steps' examples, and of validation as it went on."""
    from pipeline.config import load_params
    from pipeline.data.beginning import following
    from pipeline.prefix import PrefixConfig, PrefixModel
    from pipeline.training.left_out import LeftOut
    from pipeline.training.loop import train_prefix

    steps, seed, dropout, hidden = how
    torch.manual_seed(seed)
    model = PrefixModel(frozen, PrefixConfig(len(kv)))
    model.load_kv_prefix(kv)
    changed = {"max_steps": steps, "epochs": None, "eval_every_steps": 10, "compile": False}
    params = load_params().train.model_copy(update=changed)
    result = train_prefix(
        *(model, following(train, kv.begins_text), following(validation, kv.begins_text)),
        *(params, seed, lambda *_: None),
        left_out=LeftOut(len(kv), dropout, 0, seed, hidden),
    )
    model.detach()
    measured = [row["validation/loss"] for row in result.history if "validation/loss" in row]
    last = [row["train/loss"] for row in result.history[-10:]]
    found = [sum(last) / len(last), measured[0], min(measured), measured[-1]]
    return [f"{loss:.3f}" for loss in found]


if __name__ == "__main__":
    main()
