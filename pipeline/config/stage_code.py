"""The code that a stage depends on, by its `deps` in dvc.yaml.

Read there and listed nowhere else: what makes DVC run a stage again makes void what it kept on its
way.
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from pipeline.config.load import read_yaml

ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds the package, and dvc.yaml."""


def code_of(stage: str) -> Iterator[Path]:
    """The files of this package that a stage of dvc.yaml depends on, in an order that stays."""
    graph = ROOT / "dvc.yaml"
    state = graph.stat()
    for dependency in _deps_of(stage, graph, state.st_mtime_ns, state.st_size, state.st_ino):
        if dependency.startswith("pipeline/"):
            path = ROOT / dependency
            found = [path] if path.is_file() else path.rglob("*")
            yield from sorted(p for p in found if p.is_file() and p.suffix != ".pyc")


@lru_cache(maxsize=2)
def _deps_of(stage: str, graph: Path, *state: int) -> tuple[str, ...]:
    """What dvc.yaml says as long as it is in this state; it takes longer to read than the code."""
    definition = read_yaml(graph)["stages"][stage]
    return tuple(definition.get("do", definition)["deps"])
