"""Any params.yaml and any data file: success, or one sentence a mistake, and never a traceback."""

import copy
import csv
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from pipeline.cli.main import main
from tests.conftest import ROOT
from tests.faults.training_folder import faulty_params, make_training_folder, write_params

PARAMS_CASES = int(os.environ.get("PARAMS_CASES", "250"))
DATA_CASES = 100

pytestmark = pytest.mark.slow

Path_ = tuple[Any, ...]
Edit = tuple[str, int, Any]

WORDS = [
    *("", " ", "auto", "cpu", "cuda:9", "random", "corpus_text", "files", "wheel", "test"),
    *("{{ key }}", "{{ x", "{% for %}", "{{ 1/0 }}", "{{ record.__class__ }}", "inputs"),
    *("texts/corpus.txt", "data/model/config.json", "/", "..", "a" * 300, "\x07", "é\u2028"),
]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([0, 1, 2, 600, 10**9, 10**30, -1, 0.0, 1e-3, 1e400, float("nan")]),
    st.floats(),
    st.sampled_from(WORDS),
    st.text(max_size=8),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=5,
)
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["replace", "delete", "add", "repeat", "swap", "rename"]),
        st.integers(0, 10**6),
        VALUES,
    ),
    min_size=1,
    max_size=3,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder whose fetched files are current, so that params are checked against them too."""
    folder = tmp_path_factory.mktemp("fuzz")
    make_training_folder(folder)
    params = faulty_params(Path("inputs/model"))
    stages = {
        f"fetch_{name}": {"params": {"params.yaml": {name: params[name]}}}
        for name in ("model", "data")
    }
    with (folder / "dvc.lock").open("w") as file:
        YAML(typ="safe").dump({"stages": stages}, file)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def places(node: Any, path: Path_ = ()) -> list[Path_]:
    """The path of every value inside, parents first."""
    inner = node.items() if isinstance(node, dict) else enumerate(node)
    found: list[Path_] = []
    for key, value in inner if isinstance(node, dict | list) else ():
        found.append((*path, key))
        found += places(value, (*path, key)) if isinstance(value, dict | list) else []
    return found


def edited(params: dict[str, Any], edits: list[Edit]) -> dict[str, Any]:
    """Params after structure-aware mistakes: each edit falls on a place that there is."""
    params = copy.deepcopy(params)
    for kind, number, value in edits:
        known = places(params)
        if not known:
            break
        *parents, last = known[number % len(known)]
        node: Any = params
        for parent in parents:
            node = node[parent]
        other = known[(number // 7) % len(known)]
        if kind == "replace":
            node[last] = value
        elif kind == "delete":
            del node[last]
        elif kind == "add" and isinstance(node, dict):
            node[str(value)[:9]] = value
        elif kind == "repeat" and isinstance(node, list):
            node.append(copy.deepcopy(node[last]))
        elif kind == "rename" and isinstance(node, dict):
            node[f"{last}s"] = node.pop(last)
        elif kind == "swap":
            taken: Any = params
            for key in other:
                taken = taken[key]
            node[last] = copy.deepcopy(taken)
    return params


def refuse_traceback(*command: str) -> int:
    """Run a command; whatever it met is told in lines of their own."""
    result = CliRunner().invoke(main, command)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code in (0, 1)
    if result.exit_code:
        said = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert len(said) == 1, result.stderr
        assert len(said[0]) > 20
    assert "Traceback" not in result.output
    return result.exit_code


DEFAULT = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))
EXAMPLE = YAML(typ="safe").load((ROOT / "examples/initializations.yaml").read_text("utf-8"))
BASES = [
    faulty_params(Path("inputs/model")),
    DEFAULT,
    {name: section | EXAMPLE.get(name, {}) for name, section in DEFAULT.items()},
]


@settings(
    max_examples=PARAMS_CASES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(base=st.sampled_from(BASES), edits=EDITS)
def test_params(folder: Path, base: dict[str, Any], edits: list[Edit]) -> None:
    params = edited(base, edits)
    # libyaml, by far the fastest to write so many files.
    text = yaml.dump(params, Dumper=yaml.CSafeDumper, allow_unicode=True, sort_keys=False)
    (folder / "params.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
    refuse_traceback("check")


@settings(max_examples=150, deadline=None, derandomize=True)
@given(at=st.floats(0, 1), junk=st.binary(max_size=6), cut=st.integers(0, 40))
def test_params_damaged_as_text(folder: Path, at: float, junk: bytes, cut: int) -> None:
    content = (ROOT / "params.yaml").read_bytes()
    start = int(at * len(content))
    (folder / "params.yaml").write_bytes(content[:start] + junk + content[start + cut :])
    refuse_traceback("check")


CELLS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["", " ", "NaN", "null", "x" * 400, "\ud800", "\x00", "a,b\n"]),
    st.lists(st.integers(0, 3), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
COLUMNS = st.sampled_from(["record", "key", "value", "id", "extra", "", "self", "é"])
ROWS = st.lists(st.dictionaries(COLUMNS, CELLS, max_size=5), max_size=4)
WHOLE_ROWS = st.lists(
    st.fixed_dictionaries({"record": CELLS, "key": CELLS, "value": CELLS}), min_size=1, max_size=4
)
POLICIES = st.fixed_dictionaries(
    {
        "too_long": st.sampled_from(["refuse", "drop", "truncate"]),
        "empty": st.sampled_from(["refuse", "drop"]),
        "max_length": st.sampled_from([2, 30, 60, 128]),
        "use_chat_template": st.booleans(),
    }
)


def as_file(rows: list[dict[str, Any]], kind: str) -> bytes:
    if kind == "jsonl":
        return "\n".join(json.dumps(row) for row in rows).encode()
    if kind == "lines":
        return "\n\n".join(json.dumps(row) for row in rows).encode("utf-16")
    names = sorted({name for row in rows for name in row})
    text = io.StringIO()
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", errors="surrogatepass")


@settings(
    max_examples=DATA_CASES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    rows=ROWS | WHOLE_ROWS,
    kind=st.sampled_from(["jsonl", "csv", "lines"]),
    split=st.sampled_from(["train", "validation"]),
    policies=POLICIES,
    junk=st.binary(max_size=3),
    at=st.none() | st.floats(0, 1),
)
def test_data(
    folder: Path,
    rows: list[dict[str, Any]],
    kind: str,
    split: str,
    policies: dict[str, Any],
    junk: bytes,
    at: float | None,
) -> None:
    content = as_file(rows, kind)
    if at is not None:
        start = int(at * len(content))
        content = content[:start] + junk + content[start:]
    suffix = "csv" if kind == "csv" else "jsonl"
    path = folder / "inputs" / f"fuzzed.{suffix}"
    path.write_bytes(content)
    params = faulty_params(Path("inputs/model"))
    params["data"]["files"][split] = f"inputs/{path.name}"
    params["task"] |= policies
    write_params(folder, params)
    if refuse_traceback("fetch_data") == 0:
        refuse_traceback("tokenize")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(content=st.binary(max_size=80), suffix=st.sampled_from(["csv", "jsonl", "parquet", "json"]))
def test_data_of_any_bytes(folder: Path, content: bytes, suffix: str) -> None:
    path = folder / "inputs" / f"any.{suffix}"
    path.write_bytes((b"PAR1" if suffix == "parquet" else b"") + content)
    params = faulty_params(Path("inputs/model"))
    params["data"]["files"]["test"] = f"inputs/{path.name}"
    write_params(folder, params)
    refuse_traceback("fetch_data")
