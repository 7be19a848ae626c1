"""The variants of a sweep: what `python -m pipeline sweep` takes for 10, 100 and 1,000 of them.

Of a tiny model, so that little but start-up and bookkeeping is left. A stage's own work is what it
measures of itself (`data/timings`): the training's steps, and the measurement of the splits. All
else counts as start-up and bookkeeping: imports, loading the model, checks, MLflow, hashing,
`dvc.lock`, and the stages before and after the variants. Beside the seconds stand those that the
processors spent, which other programs of the machine make hardly longer.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import click
import psutil
from ruamel.yaml import YAML

from benchmarks.growth import tiny
from benchmarks.growth.process import ROOT
from benchmarks.growth.table import show


@click.command()
@click.option("--numbers", default="10,100,1000", show_default=True)
@click.option("--workers", default=1, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), help="A folder to work in, and keep.")
def variants(numbers: str, workers: int, folder: Path | None) -> None:
    """Run sweeps of 10, 100, ... variants of a tiny model by workers that stay alive."""
    rows: list[dict[str, str | float]] = []
    for number in map(int, numbers.split(",")):
        with tempfile.TemporaryDirectory(prefix="growth-", dir=folder) as name:
            root = Path(name)
            _make(root, number)
            found = _swept(root, "--workers", str(workers))
            again = _swept(root)
            own = _own_seconds(root)
            row: dict[str, str | float] = {
                "variants": number,
                "workers": workers,
                "seconds": found.seconds,
                "of these the stages' own work": own,
                "the rest a variant (s)": (workers * found.seconds - own) / number,
                "processor time a variant, with the work (s)": found.processors / number,
                "of this the main process (s)": found.main / number,
                "nothing has changed (s)": again.seconds,
                "main process's memory (MB)": found.memory_mb,
            }
            click.echo(json.dumps(row))
            rows.append(row)
        show("variants", rows)


@dataclass
class _Swept:
    """One sweep: seconds, and what its processes took, as last seen of each."""

    seconds: float = 0.0
    memory_mb: float = 0.0
    _main: int = 0
    _times: dict[int, float] = field(default_factory=dict)

    @property
    def processors(self) -> float:
        return sum(self._times.values())

    @property
    def main(self) -> float:
        return self._times[self._main]

    def look(self, main: psutil.Process) -> None:
        self._main = main.pid
        with suppress(psutil.Error):
            self.memory_mb = max(self.memory_mb, main.memory_info().rss / 2**20)
            for process in (main, *main.children(recursive=True)):
                spent = process.cpu_times()
                self._times[process.pid] = spent.user + spent.system


def _swept(root: Path, *options: str) -> _Swept:
    """Sweep a project. Raises RuntimeError with what was said of failing."""
    found, began = _Swept(), time.perf_counter()
    with (root / "output.txt").open("w+", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline", "sweep", *options],
            cwd=root,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        main = psutil.Process(process.pid)
        while process.poll() is None:
            found.look(main)
            time.sleep(0.2)
        output.seek(0)
        said = output.read()
    if process.returncode:
        raise RuntimeError(said[-2000:])
    found.seconds = time.perf_counter() - began
    return found


def _own_seconds(root: Path) -> float:
    keys = ("training_seconds", "evaluation_seconds")
    found = [json.loads(path.read_text()) for path in (root / "data/timings").glob("*.json")]
    return sum(float(figures.get(key, 0)) for figures in found for key in keys)


def _make(root: Path, number: int) -> None:
    """A project of its own in which a sweep of `number` seeds is to be run."""
    tiny.save(root / "model")
    shutil.copytree(
        ROOT / "pipeline", root / "pipeline", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("dvc.yaml", ".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, root / name)
    (root / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc" / "config", root / ".dvc" / "config")
    shutil.copy(ROOT / ".dvc" / ".gitignore", root / ".dvc" / ".gitignore")
    (root / "inputs").mkdir()
    for split, count in (("train", 8), ("validation", 2), ("test", 2)):
        lines = [
            json.dumps({"text": f"{tiny.word(i)} {tiny.word(j)}", "answer": tiny.word(j)})
            for j, i in enumerate(range(count * (1 + len(split)), count * (2 + len(split))))
        ]
        (root / "inputs" / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    with (root / "params.yaml").open("w") as file:
        YAML(typ="safe").dump(params_of(number), file)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)


def params_of(number: int) -> dict[str, object]:
    """The params of a sweep over so many seeds."""
    splits = ("train", "validation", "test")
    files = {split: f"inputs/{split}.jsonl" for split in splits}
    return {
        "model": {"source": "local", "path": "model", "dtype": "float32"},
        "data": {"source": "files", "path": "inputs", "files": files},
        "task": {
            "input_template": "{{ text }}",
            "target_template": " {{ answer }}",
            "use_chat_template": False,
            "max_length": 16,
        },
        "initializations": {"random": {"type": "random", "path": "data/model/config.json"}},
        "sweep": {
            "lengths": [2],
            "initializations": ["random"],
            "seeds": list(range(number)),
            "train_sizes": [],
            "learning_rates": [],
            "in_context": [],
        },
        "kv_prefix": {"max_length": 8},
        "prefix": {"distractors": {"path": "data/model/config.json"}},
        "teachers": {},
        "train": {
            "objective": {"type": "target", "path": "data/tokenized/splits/train"},
            "learning_rate": 5e-3,
            "max_steps": 2,
            "epochs": None,
            "batch_size": 4,
            "eval_every_steps": 2,
        },
        "evaluate": {
            **{"splits": ["test"], "max_new_tokens": 2},
            "teacher": "data/model/config.json",
        },
        "baselines": {},
        "trained_baselines": {},
        "inspection": {"examples": None},
        "report": {"dpi": 60, "resamples": 100},
        "mlflow": {"experiment": "growth"},
    }
