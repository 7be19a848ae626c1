"""Exact match and F1 as SQuAD's evaluation has them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.metrics.answers import exact_match, token_f1


@pytest.mark.parametrize(
    ("prediction", "references", "exact", "f1"),
    [
        ("The Paris.", ["paris"], 1.0, 1.0),
        ("3 km", ["4 km"], 0.0, 0.5),
        ("3 km", ["4 km", "3 km"], 1.0, 1.0),
        ("a b b c", ["b b d"], 0.0, 2 * 2 / (3 + 3)),
        ("", ["x"], 0.0, 0.0),
        ("...", ["the"], 1.0, 1.0),
    ],
)
def test_known_cases(prediction: str, references: list[str], exact: float, f1: float) -> None:
    assert exact_match(prediction, references) == exact
    assert token_f1(prediction, references) == pytest.approx(f1)


@given(st.text(max_size=30), st.text(max_size=30))
def test_f1_is_symmetric_and_one_on_equals(left: str, right: str) -> None:
    assert token_f1(left, [left]) == 1.0
    assert token_f1(left, [right]) == token_f1(right, [left])
    assert exact_match(left, [right]) <= token_f1(left, [right]) <= 1.0
