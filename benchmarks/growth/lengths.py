"""The prefix length: what a step takes, and what its checkpoint takes beside the steps."""

import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import click

from benchmarks.growth.process import measured
from benchmarks.growth.table import show

_STEPS = 12
_MODEL = {"num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 4,
          "num_key_value_heads": 4}  # fmt: skip


@click.command()
@click.option("--numbers", default="16,128,512,2048,8192", show_default=True)
def lengths(numbers: str) -> None:
    """Train prefixes of each length, with and without checkpoints, in processes of their own."""
    rows: list[dict[str, str | float]] = []
    with tempfile.TemporaryDirectory(prefix="growth-") as name:
        folder = Path(name)
        alone = measured(["-m", "benchmarks.growth.lengths", "0"], folder)
        for number in map(int, numbers.split(",")):
            found = measured(["-m", "benchmarks.growth.lengths", str(number)], folder)
            own = json.loads(found.output.splitlines()[-1])
            memory = found.anonymous_mb - alone.anonymous_mb
            rows.append({"p": number, **own, "memory above the model (MB)": memory})
            click.echo(json.dumps(rows[-1]))
    show("lengths", rows)


def _train(length: int, folder: Path) -> dict[str, float]:
    """Steps of one training, and its checkpoints, in this process."""
    import torch
    from datasets import Dataset

    from benchmarks.growth.tiny import WORDS, llama
    from pipeline.config.train import TrainParams
    from pipeline.prefix import PrefixConfig, PrefixModel, random_kv_prefix
    from pipeline.progress.bar import Bar  # noqa: F401  # what a training loads anyway
    from pipeline.training.checkpoint import CheckpointFolder
    from pipeline.training.training import Training
    from pipeline.workspace.checkpoints import FILE

    torch.set_num_threads(1)
    frozen = llama(**_MODEL)
    if not length:
        return {}
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(3, WORDS, (64, 100), generator=draw).tolist()
    split = Dataset.from_list([{"input_ids": row, "target_start": 80} for row in ids])
    model = PrefixModel(frozen, PrefixConfig(num_virtual_tokens=length))
    model.load_kv_prefix(random_kv_prefix(model.kv_shapes, length, 0.1, draw))
    params = TrainParams(epochs=None, max_steps=4 * _STEPS, batch_size=8, learning_rate=1e-3)
    checkpoints = CheckpointFolder(folder / f"p{length}", "digest", 1)
    training = Training(
        model, split, split.select([0]), params, 0, lambda *_: None, checkpoints, say=lambda _: None
    )
    training.begin()

    def step() -> float:
        began = time.perf_counter()
        chosen = training.choose()
        training.compute(chosen)
        training.settle(chosen)
        training.update(chosen)
        training.record(chosen)
        return time.perf_counter() - began

    undisturbed = median(step() for _ in range(_STEPS))
    waited, beside, wrote = [], [], []
    with training.keeping():
        for _ in range(3):
            began = time.perf_counter()
            training.keep()
            waited.append(time.perf_counter() - began)
            beside.append(step())
            checkpoints.wait()
            wrote.append(time.perf_counter() - began)
    return {
        "step (s)": undisturbed,
        "checkpoint (MB)": (checkpoints.folder / FILE).stat().st_size / 2**20,
        "on the disk after (s)": median(wrote),
        "of which steps wait (s)": median(waited),
        "step beside it (s)": median(beside),
    }


if __name__ == "__main__":
    print(json.dumps(_train(int(sys.argv[1]), Path.cwd())))
