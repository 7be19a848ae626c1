"""The two lock files pin everything that is needed, and a run needs nothing of the tests'."""

import tomllib
from importlib.metadata import PackageNotFoundError, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

# Markers ask for the interpreter's version; the lock files serve each of these.
VERSIONS = ("3.11", "3.12")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def pins(name: str) -> set[str]:
    lines = (ROOT / name).read_text().splitlines()
    found = [line for line in lines if line and not line.startswith(("#", "--"))]
    for line in found:
        assert [one.operator for one in Requirement(line).specifier] == ["=="], line
    names = [canonicalize_name(Requirement(line).name) for line in found]
    assert names == sorted(set(names))
    return set(names)


def needed(requirements: list[str], version: str) -> set[str]:
    """Every package that installed packages ask for, these requirements first, with extras."""
    environment = {"python_version": version, "python_full_version": f"{version}.0"}
    seen: set[tuple[str, str]] = set()
    todo = [Requirement(line) for line in requirements]
    while todo:
        asked = todo.pop()
        name = canonicalize_name(asked.name)
        for extra in ("", *asked.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            try:
                lines = requires(name) or []
            except PackageNotFoundError:
                continue
            for line in map(Requirement, lines):
                if line.marker is None or line.marker.evaluate(environment | {"extra": extra}):
                    todo.append(line)
    return {name for name, _ in seen}


OPTIONAL = ("bitsandbytes", "llama_cpp", "peft", "ray", "torchao")
RUN = [needed(PROJECT["dependencies"], version) for version in VERSIONS]
ALL = [
    needed(
        [
            *PROJECT["dependencies"],
            *EXTRAS["dev"],
            *(line for extra in OPTIONAL for line in EXTRAS[extra]),
        ],
        version,
    )
    for version in VERSIONS
]


def test_a_run_finds_pinned_what_it_needs_and_no_more() -> None:
    assert pins("requirements.lock") == set().union(*RUN)


def test_the_rest_is_what_tests_lint_benchmarks_and_lora_add() -> None:
    assert pins("requirements-dev.lock") == set().union(*ALL) - set().union(*RUN)


@pytest.mark.parametrize("name", ["peft", "pytest", "mypy"])
def test_none_of_these_is_for_a_run(name: str) -> None:
    assert name in pins("requirements-dev.lock")


def test_torch_is_pinned_to_one_version() -> None:
    assert "\ntorch==2.13.0\n" in (ROOT / "requirements.lock").read_text()
