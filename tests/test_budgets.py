"""Who is best for the same steps, seconds, parameters or bytes: tables whose answer is known."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.comparison.budget_tables import (
    TitledTable,
    budget_tables,
    trained_settings,
    within_seconds,
)
from pipeline.comparison.budgets import MOST, best_within, budgets_of, reached
from pipeline.comparison.over_seeds import over_seeds
from pipeline.comparison.summary import statistics_of_all, summarize
from pipeline.config import Params
from tests.written_sweep import params_of, write_sweep


def validated(setting: str, run: str, losses: dict[float, float]) -> list[dict[str, Any]]:
    """A run's validations: what had been spent, and the loss."""
    return [
        {"setting": setting, "run": run, "spent": spent, "loss": loss}
        for spent, loss in losses.items()
    ]


MEASURED = pd.DataFrame(
    [
        *validated("fast", "fast-seed0", {0: 5.0, 10: 2.0, 20: 3.0}),
        *validated("fast", "fast-seed1", {0: 5.0, 10: 4.0, 20: 1.0}),
        *validated("slow", "slow-seed0", {0: 6.0, 40: 0.5}),
    ]
)


def test_what_a_setting_had_reached_is_the_mean_of_its_runs_lowest_losses() -> None:
    found: Any = reached(MEASURED, [0.0, 9.9, 10.0, 20.0, 40.0])
    assert found.loc["fast"].tolist() == [5.0, 5.0, 3.0, 1.5, 1.5]
    assert found.loc["slow"].tolist() == [6.0, 6.0, 6.0, 6.0, 0.5]


def test_a_run_that_had_measured_nothing_by_then_leaves_no_mean() -> None:
    late = MEASURED[~((MEASURED["run"] == "fast-seed1") & (MEASURED["spent"] < 20))]
    found: Any = reached(late, [10.0, 20.0])
    assert found.loc["fast"].isna().tolist() == [True, False]
    assert found.loc["fast", 20.0] == 1.5


@given(st.lists(st.floats(0.01, 1e4), min_size=1, max_size=12))
def test_budgets_hold_the_least_and_the_largest_and_are_few(amounts: list[float]) -> None:
    found = budgets_of(amounts)
    assert found == sorted(found)
    assert len(found) <= MOST
    assert found[-1] == max(amounts)
    # Who takes least is done by the third, and so is who takes hardly more.
    assert min(amounts) <= found[2]
    assert found[0] == found[2] / 4
    assert found[1] == found[2] / 2


def test_amounts_that_are_nearly_the_same_are_one_budget() -> None:
    assert budgets_of([60, 60, 61, 240]) == [61 / 4, 61 / 2, 61, 240]
    assert budgets_of([]) == []
    assert budgets_of([10, 20, 40, 80, 160, 320]) == [2.5, 5, 10, 40, 80, 320]


SETTINGS = pd.DataFrame(
    [
        # name, method, bytes, validation loss, test loss
        ("len2", "prefix", 100, 3.0, 3.1),
        ("len8", "prefix", 400, 2.0, 2.1),
        # Longer and worse on validation, better on test: it is not to be chosen.
        ("len32", "prefix", 1600, 2.5, 1.0),
        ("lora", "lora", 1000, 1.5, 1.9),
        ("full", "full", 9000, 1.7, 1.6),
    ],
    columns=["name", "method", "stored_bytes", "validation_loss", "test_loss"],
)


def test_the_best_within_a_budget_is_chosen_on_validation() -> None:
    found = best_within(SETTINGS, "stored_bytes", params_of())
    rows = [tuple(row) for row in found[["budget", "method", "name", "is_best"]].to_numpy()]
    assert rows == [
        (100, "prefix", "len2", True),
        (400, "prefix", "len8", True),
        (1000, "prefix", "len8", False),
        (1000, "lora", "lora", True),
        # 1600 would change nothing, since len32 is no better than len8.
        (9000, "prefix", "len8", False),
        (9000, "lora", "lora", True),
        (9000, "full", "full", False),
    ]


def test_settings_that_cost_nearly_the_same_are_within_one_budget() -> None:
    """A start that notes which tokens were chosen takes a few bytes more, not another budget."""
    noted = pd.DataFrame([("noted", "prefix", 410, 1.9, 2.0)], columns=SETTINGS.columns)
    settings = pd.concat([SETTINGS, noted], ignore_index=True)
    found = best_within(settings, "stored_bytes", params_of())
    of_prefixes = found[found["method"] == "prefix"]
    assert list(zip(of_prefixes["budget"], of_prefixes["name"], strict=True))[:2] == [
        (100, "len2"),
        (410, "noted"),
    ]


def sweep_with_lora(**trained: Any) -> Params:
    return params_of(
        trained_baselines=trained or {"lora": {"type": "lora"}},
        report={"resamples": 100},
        evaluate={"splits": ["test"], "metrics": ["token_f1"]},
    )


def tables_of(
    folder: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> tuple[pd.DataFrame, list[TitledTable]]:
    write_sweep(folder, params)
    monkeypatch.chdir(folder)
    statistics = statistics_of_all(params)
    seeds = over_seeds(summarize(params, statistics), statistics, params)
    return seeds, budget_tables(seeds, params)


def test_the_tables_of_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = sweep_with_lora()
    seeds, tables = tables_of(tmp_path, params, monkeypatch)
    steps, numbers, stored, serving = (each.table for each in tables)
    # 30 steps each, validated every ten: LoRA's losses fall in a straight line from 3 to 2.
    assert steps.headers[:5] == ["", "steps", "≤ 8", "≤ 15", "≤ 30"]
    lora = next(row for row in steps.rows if row[0].startswith("lora"))
    assert lora[:5] == ["lora (baseline)", "30", "4.000 *", "2.790", "2.100"]
    assert [row[2] for row in steps.rows] == ["4.000 *"] * 5
    assert {row[0] for row in steps.rows} == {
        *(f"len{length}-{start}" for length in (2, 4) for start in ("random", "corpus")),
        "lora (baseline)",
    }
    # The score with its interval, as in the other tables.
    for row in steps.rows:
        name = row[0].removesuffix(" (baseline)")
        (known,) = seeds[seeds["name"] == name].to_dict("records")
        assert row[-1].startswith(f"{known['test_loss']:.3f} [{known['test_loss_low']:.3f}, ")
    assert [row[0] for row in stored.rows] == ["≤ 512 bytes", "≤ 1.0 kB", "≤ 5.0 kB", "≤ 5.0 kB"]
    assert [row[1] for row in stored.rows] == ["prefix *", "prefix *", "prefix *", "lora"]
    assert all("len4" in row[2] for row in stored.rows[1:3])
    assert next(row[0] for row in numbers.rows) == "≤ 0"
    told = {row[0]: row[1:5] for row in serving.rows}
    assert told["len2-random"] == ["512 bytes", "51.2 kB", "512 bytes", "unchanged"]
    matrices = "unchanged, with matrices beside them"
    assert told["lora (baseline)"] == ["5.0 kB", "500.0 kB", "0 bytes", matrices]


def test_seconds_are_spread_over_the_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = sweep_with_lora()
    seeds, _ = tables_of(tmp_path, params, monkeypatch)
    timings = {f"{name}-seed0": {"training_seconds": 60.0} for name in seeds["name"]}
    timings["lora-seed0"] = {"training_seconds": 120.0}
    found = within_seconds(seeds, timings, params)
    assert found is not None
    table = found.table
    assert table.headers[:6] == ["", "seconds", "≤ 15.0 s", "≤ 30.0 s", "≤ 60.0 s", "≤ 120.0 s"]
    # Twice the seconds for as many steps: within 60 s LoRA has done 15 of 30.
    lora = next(row for row in table.rows if row[0].startswith("lora"))
    assert lora[1:6] == ["120.0", "4.000 *", "4.000", "2.790", "2.100"]
    # What was restored has no timing, and one setting alone compares nothing.
    few = {"lora-seed0": timings["lora-seed0"]}
    assert within_seconds(seeds, few, params) is None
    few["len2-random-seed0"] = timings["len2-random-seed0"]
    only = within_seconds(seeds, few, params)
    assert only is not None
    assert {row[0] for row in only.table.rows} == {"lora (baseline)", "len2-random"}


def test_seconds_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = sweep_with_lora()
    seeds, _ = tables_of(tmp_path, params, monkeypatch)
    timings = {f"{name}-seed0": {"training_seconds": 0.1} for name in seeds["name"]}
    timings["lora-seed0"] = {"training_seconds": 0.12}
    found = within_seconds(seeds, timings, params)
    assert found is not None
    heads = ["≤ 0.03 s", "≤ 0.05 s", "≤ 0.10 s", "≤ 0.12 s"]
    assert found.table.headers[2:6] == heads


@pytest.mark.parametrize(
    "before",
    [{"search_seconds": 44.9}, {"start_seconds": 14.9, "search_seconds": 30.0}],
    ids=["a search", "a start and a search"],
)
def test_the_seconds_of_what_is_before_a_training_come_before_all_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: dict[str, float]
) -> None:
    params = sweep_with_lora()
    seeds, _ = tables_of(tmp_path, params, monkeypatch)
    timings = {f"{name}-seed0": {"training_seconds": 60.0} for name in seeds["name"]}
    timings["lora-seed0"] = {"training_seconds": 120.2, **before}
    found = within_seconds(seeds, timings, params)
    assert found is not None
    lora = next(row for row in found.table.rows if row[0].startswith("lora"))
    # Its 30 steps take 75.3 s: within 60 s it has done six, and validated the start alone. Of the
    # last the sum of what came before is above 120.2 by a digit.
    assert lora[1:6] == ["120.2", "", "", "4.000", "2.100"]
    assert "kv_prefix computed, once for all variants, is not in it" in found.table.note


def test_what_compares_nothing_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = params_of(
        sweep={"lengths": [2], "initializations": ["corpus"]}, report={"resamples": 100}
    )
    _, tables = tables_of(tmp_path / "one", params, monkeypatch)
    assert tables == []
    # Two that cost the same are in the first table.
    params = params_of(sweep={"lengths": [2]}, report={"resamples": 100})
    _, tables = tables_of(tmp_path / "two", params, monkeypatch)
    assert [table.title for table in tables] == ["Within the same steps"]


def test_trainings_on_fewer_examples_are_compared_with_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = sweep_with_lora(
        lora={"type": "lora"}, full={"type": "full_fine_tuning"}, words={"type": "prompt_tuning"}
    )
    params = params.model_copy(
        update={"sweep": params.sweep.model_copy(update={"train_sizes": [4]})}
    )
    seeds, tables = tables_of(tmp_path, params, monkeypatch)
    settings = trained_settings(seeds, params)
    assert any(name.endswith("-train4") for name in seeds["name"])
    assert not any(name.endswith("-train4") for name in settings["name"])
    assert "no_prefix" not in set(settings["name"])
    assert dict(zip(settings["method"], settings["weights"], strict=True)) == {
        **{"prefix": "unchanged", "words": "unchanged", "full": "a copy of their own"},
        "lora": "unchanged, with matrices beside them",
    }
    assert len(tables) == 4


def test_an_adapter_from_elsewhere_is_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = sweep_with_lora()
    seeds, _ = tables_of(tmp_path, params, monkeypatch)
    adapter = seeds[seeds["kind"] == "variant"].head(1).assign(name="theirs", train_size=None)
    raw = params.model_dump()
    raw["baselines"]["theirs"] = {"type": "adapter", "path": "adapters/theirs"}
    both = pd.concat([seeds, adapter], ignore_index=True)
    found = trained_settings(both, Params.model_validate(raw))
    assert list(found["name"]) == list(trained_settings(seeds, params)["name"])
    assert "prefix" in set(found["method"])
