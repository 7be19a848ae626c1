"""The method stands alone, and inside it a lower layer knows of no higher one."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

FOLDER = ROOT / "pipeline" / "prefix"
FILES = sorted(FOLDER.rglob("*.py"))
# Those on one line are of one height: injection and packed rows know nothing of each other.
LAYERS = (
    {"errors"},
    {"kv"},
    {"parameters"},
    {"architecture"},
    {"injection", "packed"},
    {"files"},
    {"model"},
    {"starts"},
    {"__init__"},
)
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}
LIBRARIES = {"torch", "transformers", "safetensors"}


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports, at its top or later."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            yield str(node.module)


def layer_of(path: Path) -> str:
    return path.relative_to(FOLDER).parts[0].removesuffix(".py")


def test_the_listing_shows_the_layers() -> None:
    modules = {path.stem for path in FOLDER.glob("*.py")}
    assert modules == {"__init__", "model", "kv", "errors"}
    assert {layer_of(path) for path in FILES} == HEIGHT.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_imports(path: Path) -> None:
    own = layer_of(path)
    for name in imported(path):
        top, *rest = name.split(".")
        if top != "pipeline":
            assert top in LIBRARIES | sys.stdlib_module_names, name
            continue
        assert rest[0] == "prefix", name
        other = rest[1]
        assert other == own or HEIGHT[other] < HEIGHT[own], name
