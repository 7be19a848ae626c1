"""Prints the table of architectures, from the results of the tests that it runs.

python -m tests.prefix.table > docs/architectures.md
"""

import contextlib
import sys
from collections import defaultdict

import pytest

from tests.prefix.architectures import SETTINGS

FILE = "tests/prefix/test_architectures.py"
COLUMNS = {
    "test_identity": "identity",
    "test_generation": "generation",
    "test_training_step": "training step",
    "test_gradient_checkpointing": "gradient checkpointing",
    "test_layer_choice": "choice of layers",
    "test_always_visible": "always visible",
    "test_peft_round_trip": "PEFT, both ways",
}
REFUSED = {
    (
        "deepseek_v3",
        "test_peft_round_trip",
    ): "refused: PEFT's format has one size for keys and values",
    ("gpt_neo", "test_always_visible"): "refused: its attention hides distant keys by itself",
}
"""Where a test passes because the combination is refused, and why it is."""


class Outcomes:
    """A pytest plugin that keeps each test's outcome by architecture."""

    def __init__(self) -> None:
        self.table: dict[str, dict[str, str]] = defaultdict(dict)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        test, _, name = report.nodeid.split("::")[-1].partition("[")
        if report.when == "call" or report.outcome != "passed":
            self.table[name.removesuffix("]")][test] = report.outcome


def main() -> int:
    """Run the tests, print the table, and return pytest's exit code."""
    outcomes = Outcomes()
    with contextlib.redirect_stdout(sys.stderr):
        code = pytest.main([FILE, "-q"], plugins=[outcomes])
    print("# Architectures\n")
    print(
        "Made by `python -m tests.prefix.table` from the results of the tests in\n"
        f"`{FILE}`, on tiny random models in float32 with prefixes longer than\n"
        "their sliding windows.\n"
    )
    print("| architecture |", " | ".join(COLUMNS.values()), "|")
    print("| --- |" + " --- |" * len(COLUMNS))
    for name in SETTINGS:
        cells = [_cell(name, test, outcomes.table[name].get(test)) for test in COLUMNS]
        print(f"| {name} |", " | ".join(cells), "|")
    return int(code)


def _cell(name: str, test: str, outcome: str | None) -> str:
    if outcome == "passed":
        return REFUSED.get((name, test), "yes")
    return f"**{outcome or 'not run'}**"


if __name__ == "__main__":
    sys.exit(main())
