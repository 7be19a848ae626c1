"""Scores made from statistics kept of each example are the libraries' own."""

import math

import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.metrics import kept_of, kept_of_labels, scores
from pipeline.metrics.metric import OfLabels, OfText, Row
from pipeline.metrics.table import METRICS, names_of

OF_TEXT, OF_LABELS = names_of(OfText), names_of(OfLabels)

PREDICTIONS = [
    "The Eiffel Tower stands in Paris .",
    "Alan Bean was born in Wheeler, Texas.",
    "",
    "A cat sat on the mat, and slept.",
]
REFERENCES = [
    ["The Eiffel Tower is located in Paris.", "In Paris stands the Eiffel Tower."],
    ["Alan Bean was born in Wheeler, Texas."],
    ["Nothing was said.", "No one spoke.", "Silence."],
    ["The cat slept on the mat.", "A cat sat there."],
]

texts = st.text(alphabet="abc AB.,é漢", max_size=20)
sentences = st.lists(
    st.tuples(texts, st.lists(texts, min_size=1, max_size=3)), min_size=1, max_size=5
)


def kept(predictions: list[str], references: list[list[str]]) -> list[Row]:
    return [
        {"loss": 2.0 + index, "target_tokens": 1 + index, **kept_of(text, found, OF_TEXT)}
        for index, (text, found) in enumerate(zip(predictions, references, strict=True))
    ]


def streams(references: list[list[str]]) -> list[list[str | None]]:
    """Sentence-wise references as sacrebleu's command line takes them, None where one lacks."""
    most = max(map(len, references))
    return [[row[i] if i < len(row) else None for row in references] for i in range(most)]


def check(predictions: list[str], references: list[list[str]]) -> None:
    found = scores(kept(predictions, references), OF_TEXT)
    expected = streams(references)
    assert found["bleu"] == sacrebleu.corpus_bleu(predictions, expected, force=True).score
    assert found["chrf"] == sacrebleu.corpus_chrf(predictions, expected).score


def test_bleu_and_chrf_are_sacrebleus_of_the_corpus() -> None:
    check(PREDICTIONS, REFERENCES)
    assert 0 < scores(kept(PREDICTIONS, REFERENCES), OF_TEXT)["bleu"] < 100


@given(sentences)
def test_of_any_text_too(drawn: list[tuple[str, list[str]]]) -> None:
    check([text for text, _ in drawn], [references for _, references in drawn])


def test_losses_are_averaged_over_target_tokens() -> None:
    found = scores(kept(PREDICTIONS, REFERENCES), [])
    assert list(found) == ["loss", "perplexity"]
    assert found["loss"] == pytest.approx((2 + 3 + 4 + 5) / (1 + 2 + 3 + 4))
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))


def test_the_best_reference_counts() -> None:
    found = kept_of("a cat sat", ["nothing alike", "a cat sat there"], ["rouge_l", "exact_match"])
    # Three words in order of three and of four.
    assert found["rouge_l"] == pytest.approx(2 * 1 * 0.75 / 1.75)
    assert found["exact_match"] == 0.0


@given(texts.filter(lambda text: any(letter in text for letter in "abcAB")))
def test_a_perfect_answer_has_the_highest_score(text: str) -> None:
    rows = kept([text], [["something else", text]])
    assert scores(rows, ["exact_match", "token_f1", "rouge_l"])["rouge_l"] == pytest.approx(1)
    assert scores(rows, ["chrf"])["chrf"] == pytest.approx(100)


def test_scores_of_many_sets_at_once_are_those_of_each() -> None:
    rows = kept(PREDICTIONS, REFERENCES)
    for name in ("loss", "perplexity", *OF_TEXT):
        metric = METRICS[name]
        matrix = metric.matrix(rows)
        both = metric.score(matrix.reshape(2, 2, -1).sum(axis=1))
        assert both.tolist() == [metric.score(matrix[i : i + 2].sum(axis=0)) for i in (0, 2)]


labels = st.integers(0, 4)


@given(st.lists(st.lists(st.tuples(labels, labels), min_size=1, max_size=4), min_size=1))
def test_of_labels_they_are_scikit_learns(drawn: list[list[tuple[int, int]]]) -> None:
    from sklearn.metrics import accuracy_score, f1_score

    rows: list[Row] = [
        {
            "loss": 1.0,
            "target_tokens": len(pairs),
            **kept_of_labels([given for given, _ in pairs], [chosen for _, chosen in pairs], 5),
        }
        for pairs in drawn
    ]
    given_, chosen = zip(*(pair for pairs in drawn for pair in pairs), strict=True)
    found = scores(rows, OF_LABELS)
    assert found["accuracy"] == pytest.approx(accuracy_score(given_, chosen))
    expected = f1_score(given_, chosen, average="macro", zero_division=0.0)
    assert found["f1"] == pytest.approx(expected)
