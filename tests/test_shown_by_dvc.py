"""`dvc metrics show` is a table that a terminal holds, whatever params.yaml compares."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.comparison.shown_by_dvc import shown_columns, write_for_dvc
from pipeline.config import Params
from pipeline.config.load import read_yaml
from pipeline.metrics.metric import OfText
from pipeline.metrics.table import METRICS, names_of
from pipeline.sweep.grid import all_rows
from pipeline.workspace import paths
from tests.conftest import ROOT

Change = Callable[[dict[str, Any]], Any]


def params_of(*changes: Change) -> Params:
    """The default params with changes."""
    raw = read_yaml(ROOT / "params.yaml")
    for change in changes:
        change(raw)
    return Params.model_validate(raw)


def table_of(params: Params, share: float = 0.123456) -> pd.DataFrame:
    """A summary in which every run has the same scores, and the first is the best."""
    scores = {
        f"{split}_{name}": share * (METRICS[name].highest or 80)
        for split in params.evaluate.measured_splits
        for name in params.metrics
    }
    rows = [{"name": row.name, "is_best": False, **scores} for row in all_rows(params)]
    rows[0]["is_best"] = True
    return pd.DataFrame(rows)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def printed(params: Params, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines that DVC prints of the rows of a sweep."""
    from dvc.compare import show_metrics

    write_for_dvc(table_of(params), params, paths.DVC, Path("best.json"))
    files = sorted(paths.DVC.iterdir())
    rows = {str(file): {"data": json.loads(file.read_text())} for file in files}
    capsys.readouterr()
    show_metrics({"workspace": {"data": rows}}, precision=5, round_digits=True)
    return capsys.readouterr().out.rstrip("\n").splitlines()


def classify(raw: dict[str, Any]) -> None:
    raw["task"] = {
        "type": "seq_cls",
        "input_template": "{{ record }}",
        "target_template": "{{ section }}",
    }
    raw["sweep"]["in_context"] = []
    raw["baselines"] = {}


def seq2seq(raw: dict[str, Any]) -> None:
    raw["task"]["type"] = "seq2seq_lm"
    raw["task"].update(use_chat_template=False, system_prompt=None)
    raw["sweep"]["in_context"] = []
    raw["baselines"] = {"no_prefix": {"type": "no_prefix", "path": "data/model/config.json"}}


def every_metric(raw: dict[str, Any]) -> None:
    raw["evaluate"]["metrics"] = list(names_of(OfText))


def several_seeds(raw: dict[str, Any]) -> None:
    raw["sweep"].update(seeds=[0, 1, 2], in_context=[])


def train_sizes(raw: dict[str, Any]) -> None:
    raw["sweep"].update(train_sizes=[50, 100], lengths=[8, 128])


def one_split(raw: dict[str, Any]) -> None:
    raw["evaluate"]["splits"] = ["test"]


def validation_alone(raw: dict[str, Any]) -> None:
    raw["evaluate"]["splits"] = ["validation"]


def sorted_by(metric: str, split: str = "test") -> Change:
    return lambda raw: raw["report"].update(sort_by=metric, split=split)


CASES: dict[str, tuple[tuple[Change, ...], list[str]]] = {
    "the default run": (
        (),
        ["validation_loss", "loss", "test_unseen_loss", "exact_match", "token_f1"],
    ),
    "every metric, one split": (
        (every_metric, one_split),
        ["validation_loss", "loss", "exact_match", "token_f1", "bleu", "chrf"],
    ),
    "every metric, one split, short names": (
        (every_metric, one_split, several_seeds),
        ["validation_loss", "loss", "exact_match", "token_f1", "bleu", "chrf", "rouge_l"],
    ),
    "every metric, two splits, sorted by one": (
        (every_metric, several_seeds, sorted_by("bleu")),
        ["validation_bleu", "bleu", "test_unseen_bleu", "loss", "exact_match", "chrf"],
    ),
    "several seeds": (
        (several_seeds,),
        ["validation_loss", "loss", "test_unseen_loss", "exact_match", "token_f1"],
    ),
    "long names": (
        (train_sizes,),
        ["validation_loss", "loss", "test_unseen_loss", "exact_match", "chrf"],
    ),
    "a classifier": (
        (classify,),
        ["validation_loss", "loss", "test_unseen_loss", "accuracy", "f1"],
    ),
    "a classifier by accuracy": (
        (classify, sorted_by("accuracy")),
        ["validation_accuracy", "accuracy", "test_unseen_accuracy", "loss", "f1"],
    ),
    "an encoder-decoder": (
        (seq2seq,),
        ["validation_loss", "loss", "test_unseen_loss", "exact_match", "token_f1"],
    ),
    "sorted by what restates the loss": (
        (sorted_by("perplexity"),),
        ["validation_perplexity", "perplexity", "test_unseen_perplexity", "token_f1"],
    ),
    "a report on the other split": (
        (sorted_by("loss", "test_unseen"),),
        ["validation_loss", "loss", "test_loss", "exact_match", "token_f1", "chrf"],
    ),
    "a report on validation": (
        (validation_alone, sorted_by("loss", "validation")),
        ["loss", "exact_match", "token_f1", "chrf"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_row_a_run_in_few_columns(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    changes, expected = CASES[case]
    params = params_of(*changes)
    header, *rows = printed(params, capsys)
    assert header.split() == ["Path", *sorted(expected)]
    assert list(shown_columns(params, paths.DVC)) == expected
    assert len(header.split()) <= 8
    assert max(map(len, [header, *rows])) <= 120
    assert sorted(row.split()[0] for row in rows) == sorted(
        f"data/dvc/{row.name}.json" for row in all_rows(params)
    )
    # None without a value.
    assert all("-" not in row.split()[1:] for row in rows)


def test_what_a_row_could_hold_and_does_not_would_not_fit(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The default run has no chrF: its column takes eight characters."""
    lines = printed(params_of(), capsys)
    assert max(map(len, lines)) + len("  chrf  ") > 120


def test_names_too_long_for_any_table_leave_what_is_chosen_by() -> None:
    name = "n" * 100
    params = params_of(
        lambda raw: raw["baselines"].update({name: dict(raw["baselines"]["no_prefix"])})
    )
    assert list(shown_columns(params, paths.DVC)) == ["validation_loss", "loss"]


def test_scores_have_a_digit_more_than_tables() -> None:
    params = params_of(several_seeds, every_metric, one_split)
    rows, best = paths.DVC, Path("best.json")
    rows.mkdir(parents=True)
    # Of a variant that is listed no more.
    (rows / "old.json").write_text("{}")
    table = table_of(params)
    table.loc[1, "test_loss"] = 2.34567
    write_for_dvc(table, params, rows, best)
    names = list(table["name"])
    assert sorted(path.stem for path in rows.iterdir()) == sorted(names)
    scores = {"validation_loss": 9.8765, "loss": 9.8765, "exact_match": 0.1235, "token_f1": 0.1235}
    scores |= {"bleu": 12.35, "chrf": 12.35, "rouge_l": 0.1235}
    assert json.loads((rows / f"{names[0]}.json").read_text()) == scores
    assert json.loads((rows / f"{names[1]}.json").read_text()) == scores | {"loss": 2.3457}
    assert json.loads(best.read_text()) == {"best": {"variant": names[0], **scores}}
