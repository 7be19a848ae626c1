"""One row from beginning to end, in the process that calls it."""

import copy
import time
from dataclasses import dataclass

from transformers import PreTrainedModel

from benchmarks.census.attempts import Problem, attempt
from benchmarks.census.expected import Expected, expected_of
from benchmarks.census.images import with_image
from benchmarks.census.models import build
from benchmarks.census.ours import check_ours
from benchmarks.census.peft_prefix import check_peft
from benchmarks.census.rows import Row
from benchmarks.census.verdicts import NOT_MEASURED, Verdict, judged, judged_peft


@dataclass(frozen=True)
class Found:
    """A row's verdicts; `peft` is None where it was not asked."""

    name: str
    group: str
    verdict: Verdict
    peft: Verdict | None = None
    seconds: float = 0.0


def examined(row: Row, asks_peft: bool = True) -> Found:
    """Make the row's model, ask it for the truth, then this project and PEFT."""
    began = time.perf_counter()
    verdict, peft = _verdicts(row, asks_peft)
    return Found(row.name, row.group, verdict, peft, round(time.perf_counter() - began, 1))


def _verdicts(row: Row, asks_peft: bool) -> tuple[Verdict, Verdict | None]:
    model = attempt(lambda: build(row))
    if isinstance(model, Problem):
        return Verdict(NOT_MEASURED, f"it cannot be made small: {model.said}"), None
    if model.config.is_encoder_decoder:
        return Verdict(NOT_MEASURED, "an encoder-decoder, which the tests below are for"), None
    # A model may keep what it saw, so each side has one of its own.
    expected = attempt(lambda: _expected(copy.deepcopy(model), row))
    if isinstance(expected, Problem):
        what = "an image made here" if row.group == "images" else "text alone"
        return Verdict(NOT_MEASURED, f"it does not run on {what}: {expected.said}"), None
    ours = judged(check_ours(copy.deepcopy(model), expected), expected)
    if not asks_peft:
        return ours, None
    return ours, judged_peft(check_peft(model, expected), expected)


def _expected(model: PreTrainedModel, row: Row) -> Expected:
    return expected_of(model, *with_image(model)) if row.group == "images" else expected_of(model)
