"""Every variant at every rate of `sweep.learning_rates`, in the report."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.comparison.budget_tables import budget_tables
from pipeline.comparison.drawn_by_dvc import both_losses, loss_by_length
from pipeline.comparison.loss_curves import loss_curves
from pipeline.comparison.over_seeds import over_seeds
from pipeline.comparison.plots.by_setting import by_learning_rate, by_train_size
from pipeline.comparison.plots.subject import Subject
from pipeline.comparison.plots.table import pictures
from pipeline.comparison.rate_tables import rate_tables
from pipeline.comparison.summary import statistics_of_all, summarize
from pipeline.config import Params
from pipeline.metrics.table import METRICS
from tests.written_sweep import params_of, write_report, write_sweep

Written = tuple[pd.DataFrame, pd.DataFrame]


def with_rates(*rates: float, **sections: Any) -> Params:
    sweep = {"lengths": [2, 4], "seeds": [0, 1], "learning_rates": list(rates)}
    return params_of(
        sweep=sweep, report={"resamples": 100, **sections.pop("report", {})}, **sections
    )


def written(folder: Path, params: Params, monkeypatch: pytest.MonkeyPatch) -> Written:
    """The summary, and the table over seeds."""
    write_sweep(folder, params)
    monkeypatch.chdir(folder)
    statistics = statistics_of_all(params)
    table = summarize(params, statistics)
    return table, over_seeds(table, statistics, params)


def test_a_row_a_start_and_length_and_a_column_a_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = with_rates(2e-2, 1e-5)
    _, seeds = written(tmp_path, params, monkeypatch)
    tables = rate_tables(seeds, params)
    titles = ["validation loss by learning rate", "test loss by learning rate"]
    assert [each.title for each in tables] == titles
    by_name: Any = seeds.set_index("name")
    for split, each in zip(("validation", "test"), tables, strict=True):
        assert each.table.headers == ["", "1e-05", "0.005", "0.02"]
        rows = {row[0]: row[1:] for row in each.table.rows}
        assert list(rows) == ["len2-random", "len2-corpus", "len4-random", "len4-corpus"]
        for name, cells in rows.items():
            settings = by_name.loc[[f"{name}-lr1e-05", name, f"{name}-lr0.02"]]
            best = settings["validation_loss"].argmin()
            assert [cell.endswith(" *") for cell in cells] == [place == best for place in range(3)]
            shown = [f"{value:.3f}" for value in settings[f"{split}_loss"]]
            assert [cell.split(" ±")[0] for cell in cells] == shown
        assert "0.005 is train.learning_rate" in each.table.note


def test_a_rate_that_is_searched_has_a_column_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = with_rates(2e-2, train={"learning_rate": "auto"}, report={"sort_by": "token_f1"})
    _, seeds = written(tmp_path, params, monkeypatch)
    tables = rate_tables(seeds, params)
    measured = ["validation F1", "test F1", "validation loss", "test loss"]
    assert [each.title for each in tables] == [f"{name} by learning rate" for name in measured]
    for each in tables:
        assert each.table.headers == ["", "auto", "0.02"]
        assert all(row[1].removesuffix(" *").endswith(" at 0.0464") for row in each.table.rows)
        assert all(sum(cell.endswith(" *") for cell in row) == 1 for row in each.table.rows)
        assert ". The column auto is at the rates that searches found" in each.table.note


def test_further_rates_compete_by_budget_and_stay_out_of_pictures_of_one_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = with_rates(2e-2)
    table, seeds = written(tmp_path, params, monkeypatch)
    plain = {"len2-random", "len2-corpus", "len4-random", "len4-corpus"}
    subject = Subject(table, seeds, loss_curves(params), "test", METRICS["loss"])
    assert set(subject.plain["name"]) == {*plain, "no_prefix"}
    assert set(seeds["name"]) == {*plain, "no_prefix", *(f"{name}-lr0.02" for name in plain)}
    # A curve and a point for each length and start, not a second one between its neighbours.
    keys = ["initialization", "length", "seed", "step"]
    assert not loss_curves(params).duplicated(keys).any()
    means = table[~table["name"].str.contains("-lr")].groupby(keys[:2])["test_loss"].mean()
    points = loss_by_length(table, params).set_index(keys[:2])["loss"]
    pd.testing.assert_series_equal(
        points.sort_index(), means[points.sort_index().index], check_names=False
    )
    steps = budget_tables(seeds, params)[0]
    assert {row[0] for row in steps.table.rows} == set(seeds["name"]) - {"no_prefix"}
    assert len(both_losses(params)) == len(both_losses(with_rates()))


def shapes(chart: dict[str, Any]) -> dict[str, str]:
    """Of the baselines in a picture's legend."""
    legend = {one["label"]: one["shape"] for one in chart["usermeta"]["legend"]}
    marked = " (baseline)"
    return {k.removesuffix(marked): shape for k, shape in legend.items() if k.endswith(marked)}


def test_a_picture_shows_the_score_against_the_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora = {"lora": {"type": "lora"}}
    params = with_rates(2e-2, 1e-5, trained_baselines=lora)
    assert "test_loss_by_learning_rate.png" in {picture.file for picture in pictures(params)}
    assert not any("rate" in picture.file for picture in pictures(with_rates()))
    table, seeds = written(tmp_path, params, monkeypatch)
    subject = Subject(table, seeds, pd.DataFrame(), "test", METRICS["loss"])
    chart = by_learning_rate(subject).to_dict()
    rows = chart["datasets"][chart["data"]["name"]]
    points = {row["name"]: row["x"] for row in rows if row["mark"] == "point"}
    trained = seeds[seeds["kind"] == "variant"]
    assert points == dict(zip(trained["name"], trained["learning_rate"], strict=True))
    # Another method's rates are no place among those of prefixes.
    assert {row["name"] for row in rows if row["mark"] == "level"} == {"no_prefix", "lora"}
    assert shapes(chart) == {"no_prefix": "stroke", "lora": "stroke"}
    # There it has one: the examples that it was trained on.
    by_size = shapes(by_train_size(subject).to_dict())
    assert by_size["no_prefix"] == "stroke" != by_size["lora"]


def test_the_page_has_the_tables_where_there_are_rates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = {"rates": [2e-2], "none": []}
    for name, rates in heads.items():
        params = params_of(
            sweep={"lengths": [2], "initializations": ["corpus"], "learning_rates": rates},
            report={"resamples": 100},
        )
        folder = tmp_path / name
        write_sweep(folder, params)
        monkeypatch.chdir(folder)
        page = write_report(params)
        markdown = page.with_suffix(".md").read_text()
        assert ("## By learning rate" in markdown) == bool(rates)
        assert ('id="rates"' in page.read_text()) == bool(rates)
        assert ("### validation loss by learning rate" in markdown) == bool(rates)
