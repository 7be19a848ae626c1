"""Writes tables of architectures, from the results of the tests that it runs.

`python -m tests.prefix.table` writes the end of docs/architectures.md.
"""

import sys
from collections import defaultdict

import pytest

from pipeline.storage.records import write_text
from tests.conftest import ROOT
from tests.prefix.architectures import SETTINGS
from tests.prefix.encoders import ENCODER_DECODERS, ENCODERS

PAGE = ROOT / "docs" / "architectures.md"
TITLE = "## Decoders, as the tests have them\n\n"
FILE = "tests/prefix/test_architectures.py"
ENCODER_FILE = "tests/prefix/test_encoders.py"

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


ENCODER_COLUMNS = {
    "test_encoder_identity": "identity, encoder",
    "test_decoder_identity": "identity, decoder",
    "test_cross_identity": "identity, cross-attention",
    "test_padding": "padding",
    "test_generation": "generation",
    "test_training_step": "training step",
    "test_gradient_checkpointing": "gradient checkpointing",
    "test_layer_choice": "choice of layers",
    "test_peft_round_trip": "PEFT, both ways",
}
_OUT_OF_REACH = "refused: computes its attention itself"
REFUSED |= {
    (name, test): _OUT_OF_REACH for name in ("led", "deberta-v2") for test in ENCODER_COLUMNS
}
REFUSED |= {
    ("longt5", "test_encoder_identity"): "refused: block-local attention, computed by itself",
    ("longt5", "test_padding"): "refused with the encoder",
    ("albert", "test_gradient_checkpointing"): "refused by transformers",
}
REFUSED |= {
    (name, "test_peft_round_trip"): "refused: takes no cache, which PEFT needs"
    for name in ("distilbert", "albert", "modernbert", "nomic_bert")
}
DECODERS_ONLY = {"test_decoder_identity", "test_cross_identity", "test_generation"}
"""Tests that an encoder alone has no part in."""


class Outcomes:
    """A pytest plugin that keeps each test's outcome by architecture."""

    def __init__(self) -> None:
        self.table: dict[str, dict[str, str]] = defaultdict(dict)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        test, _, given = report.nodeid.split("::")[-1].partition("[")
        name = _architecture(given.removesuffix("]"))
        # Of several tests of one kind, a failure is what counts.
        if report.outcome != "passed" or (
            report.when == "call" and self.table[name].get(test) in (None, "passed")
        ):
            self.table[name][test] = report.outcome


def _architecture(given: str) -> str:
    """The architecture among the parameters of a test."""
    known = {*SETTINGS, *ENCODER_DECODERS, *ENCODERS}
    ends = [n for n in known if given == n or given.startswith(f"{n}-") or given.endswith(f"-{n}")]
    return max(ends, key=len)


def main() -> int:
    """Run the tests, write the tables, and return pytest's exit code."""
    outcomes = Outcomes()
    code = pytest.main([FILE, ENCODER_FILE, "-q"], plugins=[outcomes])
    decoders = _table(list(SETTINGS), COLUMNS, outcomes)
    encoders = _table([*ENCODER_DECODERS, *ENCODERS], ENCODER_COLUMNS, outcomes)
    written = PAGE.read_text(encoding="utf-8")
    # What stands before is written by `python -m benchmarks.census`.
    before = written.partition(TITLE)[0]
    write_text(
        PAGE,
        f"{before}{TITLE}"
        "Made by `python -m tests.prefix.table` from the results of the tests in\n"
        f"`{FILE}`, on tiny random models in float32 with prefixes longer than\n"
        f"their sliding windows.\n\n{decoders}\n"
        "## Encoder-decoders, and encoders with a head\n\n"
        f"From `{ENCODER_FILE}`. What identity means for each part, and where it\n"
        "is not exact, is in [method.md](method.md#encoders-and-cross-attention).\n\n"
        f"{encoders}",
    )
    return int(code)


def _table(names: list[str], columns: dict[str, str], outcomes: Outcomes) -> str:
    rows = [["architecture", *columns.values()], ["---"] * (len(columns) + 1)]
    for name in names:
        rows.append(
            [name, *(_cell(name, test, outcomes.table[name].get(test)) for test in columns)]
        )
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _cell(name: str, test: str, outcome: str | None) -> str:
    if name in ENCODERS and test in DECODERS_ONLY:
        return "has none"
    if outcome == "passed":
        return REFUSED.get((name, test), "yes")
    return f"**{outcome or 'not run'}**"


if __name__ == "__main__":
    sys.exit(main())
