"""`python -m benchmarks.stages`: where the wall-clock of a run goes, stage by stage."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import click
from ruamel.yaml import YAML
from tabulate import tabulate

ROOT = Path(__file__).resolve().parent.parent
_RUNNING = re.compile(r"^Running stage '([a-z_]+)")


@click.command()
@click.option(
    "--set", "edits", multiple=True, help="An edit of params.yaml: sweep.lengths='[8, 512]'."
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Run by this many workers that stay alive, as `python -m pipeline sweep` does; they share "
    "the cores. Default: by `dvc repro`, a process a stage.",
)
def main(edits: tuple[str, ...], workers: int | None) -> None:
    """Run every stage of params.yaml in a copy of the project, and print what each takes.

    Nothing is there before, neither model nor data: `fetch_model` and `fetch_data` download them.

    Start-up is what a variant's two stages cost before they compute: the interpreter, imports, and
    the frozen model's load, measured by an evaluation of nothing but that.
    """
    with tempfile.TemporaryDirectory(prefix="stages-") as name:
        copy = Path(name)
        _copy_project(copy)
        _edit(copy / "params.yaml", edits)
        began = time.perf_counter()
        seconds = _timed_repro(copy) if workers is None else _timed_sweep(copy, workers)
        whole = time.perf_counter() - began
        start_up = _start_up(copy)
    total = sum(sum(times) for times in seconds.values())
    rows = [
        [stage, len(times), f"{sum(times):.0f}", f"{sum(times) / len(times):.1f}",
         f"{100 * sum(times) / total:.0f}%"]
        for stage, times in seconds.items()
    ]  # fmt: skip
    rows.append(["all", sum(map(len, seconds.values())), f"{total:.0f}", "", "100%"])
    headers = ["stage", "runs", "seconds", "seconds a run", "share"]
    click.echo(tabulate(rows, headers, tablefmt="github", disable_numparse=True))
    fetched = sum(sum(seconds.get(stage, ())) for stage in ("fetch_model", "fetch_data"))
    click.echo(f"\nfrom start to end: {whole:.0f} s, of which {fetched:.0f} s fetch model and data")
    click.echo(f"start-up of one stage that loads the model: {start_up:.1f} s")


def _copy_project(folder: Path) -> None:
    """The project's own files in a repository of their own, without data or DVC's cache."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)


def _edit(path: Path, edits: tuple[str, ...]) -> None:
    yaml = YAML()
    params = yaml.load(path)
    for edit in edits:
        key, _, value = edit.partition("=")
        *sections, last = key.split(".")
        inner = params
        for section in sections:
            inner = inner[section]
        inner[last] = YAML(typ="safe").load(value)
    with path.open("w") as file:
        yaml.dump(params, file)


def _environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1", "PYTHONUNBUFFERED": "1"}


def _timed_repro(folder: Path) -> dict[str, list[float]]:
    """Seconds of each run of each stage, from DVC's announcement of it to that of the next."""
    seconds: dict[str, list[float]] = defaultdict(list)
    process = subprocess.Popen(
        ["dvc", "repro"],
        cwd=folder,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    stage, began = None, time.perf_counter()
    for line in process.stdout:
        if found := _RUNNING.match(line):
            if stage is not None:
                seconds[stage].append(time.perf_counter() - began)
            stage, began = found[1], time.perf_counter()
            click.echo(line.rstrip(), err=True)
    if process.wait() or stage is None:
        raise click.ClickException("`dvc repro` failed; run it by itself to see why")
    seconds[stage].append(time.perf_counter() - began)
    return dict(seconds)


def _timed_sweep(folder: Path, workers: int) -> dict[str, list[float]]:
    """Seconds of each run of each stage in its worker."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.timed_sweep", str(workers)],
        cwd=folder,
        env=_environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise click.ClickException("the sweep failed; `python -m pipeline sweep` shows why")
    seconds: dict[str, list[float]] = defaultdict(list)
    for stage, taken in json.loads(done.stdout.splitlines()[-1]).items():
        seconds[stage.partition("@")[0]].append(taken)
    return dict(seconds)


def _start_up(folder: Path) -> float:
    code = (
        "import pipeline.cli.main, pipeline.stages.evaluate\n"
        "from pipeline.workspace import paths\n"
        "from pipeline.config import load_params\n"
        "from pipeline.models.frozen import load_frozen_model\n"
        "load_frozen_model(paths.MODEL, load_params().evaluate)\n"
    )
    times = []
    for _ in range(3):
        began = time.perf_counter()
        command = [sys.executable, "-c", code]
        subprocess.run(command, cwd=folder, env=_environment(), check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    return min(times)


if __name__ == "__main__":
    main()
