"""`python -m benchmarks.quantized`: the frozen model whole and in 8 and 4 bits, side by side.

For each way the memory of the weights, whether a prefix is the text that it was made from (law 1 of
the design), the loss of the default task's test split before and after a short training, and the
speed of training.
"""

import itertools
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from tabulate import tabulate

WAYS: dict[str, dict[str, Any] | None] = {
    "whole": None,
    "bitsandbytes, 8 bits": {"library": "bitsandbytes", "bits": 8},
    "bitsandbytes, 4 bits (nf4)": {"library": "bitsandbytes", "bits": 4},
    "torchao, 8 bits": {"library": "torchao", "bits": 8},
    "torchao, 4 bits": {"library": "torchao", "bits": 4},
}
HEADERS = (
    *("weights", "MB", "identity float32", "identity bfloat16", "a prefix changes"),
    *("loss before", "after", "tokens/s"),
)
TEXT, INPUT = 16, 48


@click.command()
@click.option("--model", default="data/model", show_default=True, type=Path)
@click.option("--splits", default="data/tokenized/splits", show_default=True, type=Path)
@click.option("--steps", default=20, show_default=True, help="Optimizer steps of 8 examples.")
@click.option("--length", default=16, show_default=True, help="Virtual tokens.")
@click.option("--examples", default=80, show_default=True, help="Of the test split.")
def main(model: Path, splits: Path, steps: int, length: int, examples: int) -> None:
    """Print a row for each way to keep the weights, computing in bfloat16."""
    if not (model / "config.json").exists() or not splits.exists():
        raise click.ClickException(f"{model} or {splits} is not there; run `dvc repro tokenize`")
    rows = []
    for name, scheme in WAYS.items():
        rows.append([name, *_measured(model, scheme, splits, steps, length, examples)])
        click.echo(" ".join(rows[-1]), err=True)
    click.echo(tabulate(rows, headers=HEADERS, tablefmt="github", disable_numparse=True))


def _measured(
    model: Path, scheme: dict[str, Any] | None, splits: Path, steps: int, length: int, most: int
) -> Iterator[str]:
    from pipeline.config.train import TrainParams
    from pipeline.data.splits import load_split
    from pipeline.models.frozen import load_frozen_model
    from pipeline.models.tokenizer import load_tokenizer
    from pipeline.prefix import PrefixConfig, PrefixModel, kv_prefix_from_text
    from pipeline.schema.compute import Compute
    from pipeline.training.loop import train_prefix
    from pipeline.training.validation import target_loss_of

    with tempfile.TemporaryDirectory() as scratch:
        folder = _folder(model, scheme, Path(scratch))
        exact = load_frozen_model(folder, Compute(device="cpu", dtype="float32"))
        in_float32, changes = identity(exact)
        del exact
        frozen = load_frozen_model(folder, Compute(device="cpu", dtype="bfloat16"))
    yield f"{stored_bytes(frozen) / 2**20:.0f}"
    yield f"{in_float32:.1e}"
    yield f"{identity(frozen)[0]:.1e}"
    yield f"{changes:.1f}"
    test = load_split(splits, "test").select(range(most))
    yield f"{target_loss_of(PrefixModel(frozen), test, 4096):.3f}"
    prefixed = PrefixModel(frozen, PrefixConfig(length))
    text = Path("corpora/reading_records.txt").read_text(encoding="utf-8")
    tokenizer = load_tokenizer(model)
    prefixed.load_kv_prefix(kv_prefix_from_text(frozen, tokenizer, text, length))
    train = load_split(splits, "train")
    params = TrainParams(epochs=None, max_steps=steps, warmup_steps=3, compile=False)
    tokens = sum(len(row) for row in train.select(range(8 * 4))["input_ids"]) / 4
    clock: list[float] = []
    result = train_prefix(
        prefixed,
        train,
        load_split(splits, "validation").select(range(4)),
        params,
        seed=0,
        log_step=lambda *_: clock.append(time.perf_counter()),
    )
    assert result.step == steps
    yield f"{target_loss_of(prefixed, test, 4096):.3f}"
    # Between the ends of steps, without the validations before the first and after the last.
    spent = [later - earlier for earlier, later in itertools.pairwise(clock[1:-1])]
    yield f"{tokens * len(spent) / sum(spent):.0f}"


def identity(frozen: Any) -> tuple[float, float]:
    """How far the logits after a text's KV cache as a prefix are from those after the text itself.

    Beside it how far the text moves them from those after nothing; both the largest difference.
    """
    import torch

    from pipeline.prefix import PrefixConfig, PrefixModel, kv_prefix_from_tokens

    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(100, frozen.config.vocab_size, (1, TEXT + INPUT), generator=draw)
    model = PrefixModel(frozen, PrefixConfig(TEXT))
    model.load_kv_prefix(kv_prefix_from_tokens(frozen, ids[0, :TEXT]))
    with torch.no_grad():
        after_prefix = model(input_ids=ids[:, TEXT:]).logits.float()
        after_text = frozen(input_ids=ids).logits[:, TEXT:].float()
        after_nothing = frozen(input_ids=ids[:, TEXT:]).logits.float()
    model.detach()
    error, effect = after_prefix - after_text, after_text - after_nothing
    return float(error.abs().max()), float(effect.abs().max())


def stored_bytes(model: Any) -> int:
    """The bytes of a model's weights as they are kept, scales included, tied ones once."""
    found: dict[int, int] = {}
    for tensor in _kept(model):
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


def _kept(model: Any) -> Iterator[Any]:
    for tensor in model.state_dict(keep_vars=True).values():
        yield from _inner(tensor)


def _inner(tensor: Any) -> Iterator[Any]:
    import torch

    if not isinstance(tensor, torch.Tensor):
        return
    if type(tensor).__torch_dispatch__ is torch.Tensor.__torch_dispatch__:
        yield tensor
        return
    for name in tensor.__tensor_flatten__()[0]:
        yield from _inner(getattr(tensor, name))


def _folder(model: Path, scheme: dict[str, Any] | None, scratch: Path) -> Path:
    """The model's files, with the one that says how to quantize it."""
    for path in model.resolve().iterdir():
        (scratch / path.name).symlink_to(path)
    if scheme is not None:
        (scratch / "quantization.json").write_text(json.dumps(scheme))
    return scratch


if __name__ == "__main__":
    main()
