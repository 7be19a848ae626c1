"""What shapes a stage's output, read from the imports of its file, all the way down.

`python -m tests.graph.closure train` prints what dvc.yaml lists for pipeline/stages/train.py.

Imports inside functions count; those for type checkers alone do not. What cannot shape an output
is left out, with its reason, in `APART`.
"""

import ast
import sys
from functools import cache
from pathlib import Path
from typing import Any

import grimp

from tests.conftest import ROOT

APART = {
    "pipeline.cli": "hands a stage its arguments",
    "pipeline.preflight": "refuses, or lets pass",
    "pipeline.errors": "words what went wrong",
    "pipeline.tracking": "mirrors to MLflow what was written",
    "pipeline.progress": "shows how far work is",
    "pipeline.standing": "tells how much of the sweep is done",
    "pipeline.workspace": "says where files lie, which dvc.yaml says too, and how long things took",
    "pipeline.schema.section": "checks values, and gives none",
    "pipeline.schema.alternatives": "tells kinds apart by their tag",
    "pipeline.config.__init__": "hands on the next two",
    "pipeline.config.load": "reads params.yaml",
    "pipeline.config.params": "checks sections against each other; what they give is theirs",
    "pipeline.config.watched": "names what DVC watches",
}
"""Rooms and files that shape no output, and why; what they import is not followed."""

SECTIONS_APART = {
    "mlflow": "where runs are logged",
    "hardware": "what the machine is, which changes results by their rounding alone",
    "memory": "how much is computed at once, which changes results by their rounding alone",
    "checkpoints": "how often a training is saved, which changes nothing it gives",
    "serving": "what is served after all stages",
}
"""Sections of params.yaml that shape no output, and why."""


@cache
def imports() -> grimp.ImportGraph:
    """The graph of the package's imports."""
    return grimp.build_graph("pipeline", exclude_type_checking_imports=True, cache_dir=None)


def _is_apart(module: str) -> bool:
    names = (module, f"{module}.__init__")
    return any(name in names or module.startswith(f"{name}.") for name in APART)


@cache
def modules_of(stage_module: str) -> frozenset[str]:
    """The modules that shape what `pipeline.stages.<stage_module>` writes, itself among them.

    A module that reads `params.<section>` depends on the section's file, where its defaults are,
    and on the classes that the section's values are of.
    """
    found: set[str] = set()
    waiting = [f"pipeline.stages.{stage_module}"]
    while waiting:
        module = waiting.pop()
        if module in found or _is_apart(module):
            continue
        found.add(module)
        waiting.extend(imports().find_modules_directly_imported_by(module))
        waiting.extend(f"pipeline.config.{section}" for section in _sections_in(module))
    return frozenset(found)


def files_of(stage_module: str) -> set[str]:
    """The files that shape a stage's output, relative to the repository's root.

    A module's own file, unless it holds a docstring alone, and whatever else than Python lies in
    its folder or in folders there that are no packages (templates, C++).
    """
    files: set[str] = set()
    for module in modules_of(stage_module):
        path = _file(module)
        if not _is_docstring_alone(path):
            files.add(path.relative_to(ROOT).as_posix())
            files |= {other.relative_to(ROOT).as_posix() for other in _beside(path.parent)}
    return files


def files_below(path: str) -> set[str]:
    """The files that a dependency on `path` covers, without docstrings of packages."""
    root = ROOT / path
    found = [root] if root.is_file() else [p for p in root.rglob("*") if p.is_file()]
    return {
        file.relative_to(ROOT).as_posix()
        for file in found
        if file.suffix != ".pyc" and not _is_docstring_alone(file)
    }


def cover(files: set[str], folder: str = "pipeline") -> list[str]:
    """The shortest list of folders and files that covers these files and no others."""
    below = files_below(folder)
    if below and below <= files:
        return [folder]
    inside = sorted((ROOT / folder).iterdir())
    paths = [path.relative_to(ROOT).as_posix() for path in inside]
    found = [path for path in paths if path in files]
    folders = [path for path in paths if (ROOT / path).is_dir() and files_below(path) & files]
    return sorted([*found, *(item for path in folders for item in cover(files, path))])


def sections_read(stage_module: str) -> set[str]:
    """The sections of params.yaml that shape a stage's output: those that some module reads.

    The file of a section may shape it as a part of another section, too.
    """
    return set().union(*(_sections_in(module) for module in modules_of(stage_module)))


@cache
def _sections() -> frozenset[str]:
    from pipeline.config import Params

    return frozenset(Params.model_fields) - set(SECTIONS_APART)


def _sections_in(module: str) -> set[str]:
    """The sections that a module reads.

    `params.<section>`, also of an object's `params`, and what it lists as `SECTIONS`.
    """
    found: set[str] = set()
    for node in ast.walk(_parsed(_file(module))):
        if isinstance(node, ast.Attribute):
            owner = getattr(node.value, "id", getattr(node.value, "attr", None))
            found |= {node.attr} if owner == "params" else set()
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "SECTIONS":
            found |= {str(c.value) for c in ast.walk(node.value) if isinstance(c, ast.Constant)}
    return found & _sections()


def _file(module: str) -> Path:
    path = ROOT / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _beside(folder: Path) -> list[Path]:
    return [
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path.suffix not in (".py", ".pyc")
        and not any((parent / "__init__.py").exists() for parent in _between(path, folder))
    ]


def _between(path: Path, folder: Path) -> list[Path]:
    return [parent for parent in path.parents if folder in parent.parents]


@cache
def _is_docstring_alone(path: Path) -> bool:
    return path.name == "__init__.py" and len(_parsed(path).body) <= 1


@cache
def _parsed(path: Path) -> Any:
    return ast.parse(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    for stage_module in sys.argv[1:]:
        for line in cover(files_of(stage_module)):
            print(f"      - {line}")
