"""What shapes a stage's output, read from the imports of its file, all the way down.

Imports inside functions count; those for type checkers alone do not. What cannot shape an output
is left out, with its reason, in `APART`.
"""

import ast
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
    "pipeline.workspace": "says where files lie, which dvc.yaml says too, and how long things took",
    "pipeline.schema": "checks values, and gives none",
    "pipeline.config.__init__": "hands on the next two",
    "pipeline.config.load": "reads params.yaml",
    "pipeline.config.params": "brings the sections together; their defaults are in their own files",
    "pipeline.config.watched": "names what DVC watches",
}
"""Rooms and files that shape no output, and why; what they import is not followed."""

SECTIONS_APART = {
    "mlflow": "where runs are logged",
    "checkpoints": "how often a training is saved, which changes nothing it gives",
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
    """The modules that shape what `pipeline.stages.<stage_module>` writes, itself among them."""
    found: set[str] = set()
    waiting = [f"pipeline.stages.{stage_module}"]
    while waiting:
        module = waiting.pop()
        if module in found or _is_apart(module):
            continue
        found.add(module)
        waiting.extend(imports().find_modules_directly_imported_by(module))
    return frozenset(found)


def files_of(stage_module: str) -> set[str]:
    """The files that shape a stage's output, relative to the repository's root.

    A module's own file, unless it holds a docstring alone, and whatever else than Python lies in
    its folder or in folders there that are no packages (templates, C++).
    """
    files: set[str] = set()
    for module in modules_of(stage_module):
        path = ROOT / module.replace(".", "/")
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
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


def sections_read(stage_module: str) -> set[str]:
    """The sections of params.yaml that the modules of a stage read, by their source.

    `params.<section>` wherever it stands, and the files of `pipeline.config` that are imported.
    """
    from pipeline.config import Params

    known = set(Params.model_fields)
    found: set[str] = set()
    for module in modules_of(stage_module):
        if module.startswith("pipeline.config."):
            found |= {module.rpartition(".")[2]} & known
        path = ROOT / module.replace(".", "/")
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        found |= {
            node.attr
            for node in ast.walk(_parsed(path))
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "params"
            and node.attr in known
        }
    return found - set(SECTIONS_APART)


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
