"""The code that a stage depends on, by its `deps` in dvc.yaml.

Read there and listed nowhere else: what makes DVC run a stage again makes what was kept of an
unfinished run void.
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from pipeline.config.load import read_yaml

ROOT = Path(__file__).resolve().parents[2]
"""Where the package and dvc.yaml lie."""


def code_of(stage: str) -> Iterator[Path]:
    """The files of this package that a stage, named as in dvc.yaml, depends on."""
    graph = ROOT / "dvc.yaml"
    state = graph.stat()
    for dependency in _deps(stage, graph, state.st_mtime_ns, state.st_size, state.st_ino):
        if dependency.startswith("pipeline/"):
            path = ROOT / dependency
            found = [path] if path.is_file() else path.rglob("*")
            yield from sorted(p for p in found if p.is_file() and p.suffix != ".pyc")


@lru_cache(maxsize=2)
def _deps(stage: str, graph: Path, *state: int) -> tuple[str, ...]:
    """What dvc.yaml says as long as it is in this state; it takes longer to read than the code."""
    definition = read_yaml(graph)["stages"][stage]
    return tuple(definition.get("do", definition)["deps"])
