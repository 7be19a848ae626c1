"""A learning rate that short trainings find: which, at what cost, and with the same bytes."""

import math
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.baselines.full_fine_tuning import FullFineTuning, WeightRates
from pipeline.baselines.table import TRAINED_BASELINES
from pipeline.config import load_params
from pipeline.config.averaging import ExponentialAveraging
from pipeline.config.objective import DistillationObjective
from pipeline.config.train import TrainParams
from pipeline.errors import DivergedError, StoppedError
from pipeline.prefix import PrefixConfig, PrefixModel
from pipeline.schema.learning_rate import RateSearch
from pipeline.stages import train as stage
from pipeline.storage.records import read_json
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.halving import Round, Trial, planned_rounds, planned_trials, search_rate
from pipeline.training.kept_trials import KeptTrials
from pipeline.training.loop import train_prefix
from pipeline.training.trials import ShortTraining, trial_params
from pipeline.workspace import paths
from pipeline.workspace.checkpoints import TRIALS
from pipeline.workspace.timings import read_timing
from tests.conftest import DEAR, Workspace, tiny_model
from tests.distributed.trainings import taught
from tests.faults.kills import forget
from tests.faults.test_kills import ENCODERS, CutOffError, examples, same, train
from tests.faults.training_folder import (
    VARIANT,
    faulty_params,
    make_training_folder,
    outs,
    working_in,
    write_params,
)
from tests.hybrids import lfm2
from tests.sweep_runs import client, runs

CONFIG = PrefixConfig(num_virtual_tokens=4)


def searched(lowest: float = 1e-4, highest: float = 1.0, candidates: int = 5) -> RateSearch:
    return RateSearch(lowest=lowest, highest=highest, candidates=candidates)


def auto(**changes: Any) -> TrainParams:
    """A training of 12 steps, whose search trains for 2, 3 and 6... a candidate."""
    settings: dict[str, Any] = {
        **{"learning_rate": "auto", "learning_rate_search": searched(candidates=3)},
        **{"epochs": None, "max_steps": 12, "batch_size": 2, "eval_every_steps": 4},
    }
    return TrainParams(**settings | changes)


# The search alone, on losses that are given.


def search_of(
    loss: Callable[[float, int], float], search: RateSearch, steps: int = 100
) -> tuple[float, list[tuple[float, int]]]:
    """The rate that is found, and what was asked for on the way."""
    asked: list[tuple[float, int]] = []

    def trial(rate: float, planned: Round) -> Trial:
        asked.append((rate, planned.steps))
        return Trial(rate, planned.steps, loss(rate, planned.steps))

    return search_rate(search, steps, trial).rate, asked


def test_candidates_are_as_far_apart_in_ratio_and_to_three_digits() -> None:
    assert RateSearch().rates == [0.001, 0.00215, 0.00464, 0.01, 0.0215, 0.0464, 0.1]
    assert RateSearch(lowest=1e-3, highest=3e-3, candidates=2).rates == [0.001, 0.003]


def test_rates_that_are_equal_to_three_digits_are_one_candidate() -> None:
    search = RateSearch(lowest=0.01, highest=0.0101, candidates=7)
    assert search.rates == [0.01, 0.0101]
    assert [(r.candidates, r.steps) for r in planned_rounds(search, 420)] == [(2, 210)]
    found, asked = search_of(lambda rate, _: rate, search)
    assert found == 0.01
    assert [steps for _, steps in asked] == list(planned_trials(search, 100))
    with pytest.raises(DivergedError, match="all 2 rates"):
        search_of(lambda *_: math.inf, search)


def test_rounds_share_the_steps_and_the_worse_half_goes() -> None:
    rounds = planned_rounds(RateSearch(), 420)
    assert [(r.candidates, r.steps) for r in rounds] == [(7, 20), (4, 35), (2, 70)]
    found, asked = search_of(lambda rate, steps: abs(math.log(rate / 0.02)), RateSearch(), 420)
    assert found == 0.0215
    assert [rate for rate, steps in asked if steps == 35] == [0.00464, 0.01, 0.0215, 0.0464]
    assert [rate for rate, steps in asked if steps == 70] == [0.01, 0.0215]


@given(
    st.integers(1, 5000),
    st.integers(2, 20),
    st.floats(0.05, 3),
    st.lists(st.floats(0, 9), min_size=20),
)
def test_the_best_of_losses_that_do_not_change_is_found_at_the_planned_cost(
    steps: int, candidates: int, share: float, losses: Sequence[float]
) -> None:
    search = RateSearch(candidates=candidates, share_of_steps=share)
    of_rate = dict(zip(search.rates, losses, strict=False))
    found, asked = search_of(lambda rate, _: of_rate[rate], search, steps)
    assert of_rate[found] == min(of_rate.values())
    # The lowest of those that are as good.
    assert found == min(rate for rate, loss in of_rate.items() if loss == of_rate[found])
    assert [of for _, of in asked] == list(planned_trials(search, steps))
    assert len(set(asked)) == len(asked)
    assert max(of for _, of in asked) <= steps
    rounds = planned_rounds(search, steps)
    assert sum(of for _, of in asked) <= max(share * steps, sum(r.candidates for r in rounds))


def test_a_candidate_that_diverges_is_just_worse() -> None:
    found, _ = search_of(lambda rate, _: math.inf if rate > 0.005 else 1 / rate, RateSearch())
    assert found == 0.00464
    # In a longer training alone: what did well in a shorter one is left.
    found, _ = search_of(
        lambda rate, steps: math.inf if steps > 10 and rate > 0.005 else 1 / rate, RateSearch()
    )
    # The two of the last round are out of it, however well they did in the rounds before.
    assert found == 0.0215
    with pytest.raises(
        DivergedError, match=r"learning_rate_search: all 7 rates from 0\.001 to 0\.1"
    ):
        search_of(lambda *_: math.inf, RateSearch())


def test_a_trials_schedule_is_a_whole_one() -> None:
    params = auto(warmup_steps=4, early_stopping_patience=1)
    short = trial_params(params, 0.5, 3, 12)
    assert (short.peak_rate, short.max_steps, short.epochs, short.warmup_steps) == (0.5, 3, None, 1)
    assert short.eval_every_steps is short.early_stopping_patience is None
    # A mean of the weights looks as far back, as a share of the steps.
    averaged = auto(averaging={"type": "ema", "decay": 0.9})
    assert trial_params(averaged, 0.5, 3, 12).averaging == ExponentialAveraging(
        type="ema", decay=0.9**4
    )


# The search before a training.


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_training_is_that_of_the_found_rate_to_the_bit(encoder: str) -> None:
    config = PrefixConfig(num_virtual_tokens=4, **ENCODERS[encoder])
    result = train(config, auto())
    assert result.search is not None
    assert result.learning_rate == result.search.rate
    table = result.search.table
    assert [(row["round"], row["steps"]) for row in table] == [
        (1, 2),
        (1, 2),
        (1, 2),
        (2, 3),
        (2, 3),
    ]
    last = [row for row in table if row["round"] == 2]
    assert (
        min(last, key=lambda row: row["validation_loss"] or 9)["learning_rate"]
        == result.search.rate
    )
    given = train(config, auto(learning_rate=result.search.rate))
    assert given.search is None
    assert same(result, given)
    assert train(config, auto()).search.table == table  # type: ignore[union-attr]


def test_of_planted_rates_the_useful_one_is_found() -> None:
    """One moves nothing, and one is absurd."""
    result = train(CONFIG, auto(learning_rate_search=searched(1e-43, 1e39, 3)))
    assert result.learning_rate == 0.01
    assert result.search is not None
    (absurd,) = (row for row in result.search.table if row["learning_rate"] == 1e39)
    assert absurd["validation_loss"] is None
    assert result.best_step > 0


def test_where_every_rate_diverges_one_sentence_says_so() -> None:
    params = auto(learning_rate_search=searched(1e39, 1e41, 2))
    with pytest.raises(DivergedError, match=r"all 2 rates from 1e\+39 to 1e\+41 diverge"):
        train(CONFIG, params)


def test_of_states_the_rate_that_is_a_number_is_named_then() -> None:
    data = taught()
    params = auto(learning_rate_search=searched(1e39, 1e41, 2), state_learning_rate=1e-3)
    model = PrefixModel(lfm2(), PrefixConfig(num_virtual_tokens=2))
    with pytest.raises(DivergedError, match=r" diverge; .*, or lower train\.state_learning_rate$"):
        train_prefix(model, data, data, params, 3, lambda *_: None)


def test_without_validations_on_the_way_and_with_epochs() -> None:
    result = train(CONFIG, auto(eval_every_steps=None, max_steps=None, epochs=3, warmup_steps=3))
    assert result.search is not None
    assert [row["steps"] for row in result.search.table] == [2, 2, 2, 3, 3]
    assert result.step == 12


def test_all_weights_start_anew_for_each_trial() -> None:
    """Of a trained baseline, which has no prefix to be put back."""
    data = examples()

    def trained(learning_rate: Any) -> Any:
        search = WeightRates(lowest=1e-4, highest=1e-2, candidates=2)
        own = FullFineTuning(
            type="full_fine_tuning", learning_rate=learning_rate, learning_rate_search=search
        )
        model = PrefixModel(tiny_model().requires_grad_(True))
        return train_prefix(model, data, data, own.training(auto()), 3, lambda *_: None)

    result = trained("auto")
    given = trained(result.search.rate)
    assert result.history == given.history
    for name, tensor in given.prefix.tensors.items():
        assert torch.equal(result.prefix.tensors[name], tensor)


def test_states_follow_each_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    """`state_learning_rate: null` is a share of the rate that is tried."""
    peaks: list[list[float]] = []
    real = ShortTraining.begin

    def noting(self: ShortTraining) -> None:
        peaks.append([group["initial_lr"] for group in self.progress.optimizer.param_groups])
        real(self)

    monkeypatch.setattr(ShortTraining, "begin", noting)
    data = taught()
    model = PrefixModel(lfm2(), PrefixConfig(num_virtual_tokens=2))
    objective = DistillationObjective(type="distillation", teacher="one", path="data/teachers/one")
    result = train_prefix(model, data, data, auto(objective=objective), 3, lambda *_: None)
    assert [rate for rate, _ in peaks[:3]] == [1e-4, 1e-2, 1.0]
    shares = [of_states / rate for rate, of_states in peaks]
    assert shares == pytest.approx([shares[0]] * 5, rel=0.1)
    assert result.history[1]["train/learning_rate"] == result.learning_rate


def test_trained_baselines_are_searched_where_they_are_trained() -> None:
    ranges = {}
    for kind in TRAINED_BASELINES:
        fields = kind.model_fields
        needed = {"initialization": "random", "length": 4}
        own = kind.model_validate(
            {
                **{"type": (name := get_args(fields["type"].annotation)[0])},
                **{"learning_rate": "auto"},
                **{key: value for key, value in needed.items() if key in fields},
            }
        )
        training = own.training(TrainParams())
        assert training.learning_rate == "auto"
        search = training.learning_rate_search
        ranges[name] = (search.lowest, search.highest)
        assert search.lowest <= fields["learning_rate"].default <= search.highest
    assert ranges == {
        "lora": (2e-4, 1e-2),
        "prompt_tuning": (3e-3, 3e-1),
        "prefix_and_lora": (2e-4, 1e-2),
        "full_fine_tuning": (5e-6, 5e-4),
    }
    fewer = FullFineTuning.model_validate(
        {"type": "full_fine_tuning", "learning_rate_search": {"candidates": 3}}
    )
    assert fewer.training(TrainParams()).learning_rate_search.rates == [5e-6, 5e-5, 5e-4]


# The search, cut off.


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int]]:
    """The rate and steps of each short training that begins."""
    begun: list[tuple[float, int]] = []
    real = ShortTraining.begin

    def noting(self: ShortTraining) -> None:
        begun.append((self.params.peak_rate, self.steps))
        real(self)

    monkeypatch.setattr(ShortTraining, "begin", noting)
    return begun


@pytest.mark.parametrize("kept", [1, 3, 5])
def test_a_killed_search_goes_on_with_the_same_bytes(
    kept: int, tmp_path: Path, trials: list[tuple[float, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = PrefixConfig(num_virtual_tokens=4, prefix_dropout=0.3)
    whole = train(config, auto())
    assert len(trials) == 5
    folder = CheckpointFolder(tmp_path / "x", "digest", 1)
    real = KeptTrials.write

    def cut(self: KeptTrials, found: Sequence[Trial]) -> None:
        real(self, found)
        if len(found) == kept:
            raise CutOffError

    with monkeypatch.context() as patch:
        patch.setattr(KeptTrials, "write", cut)
        with pytest.raises(CutOffError):
            train(config, auto(), folder)
    trials.clear()
    # The training itself is cut off, too, and the search is not repeated.
    with pytest.raises(CutOffError):
        train(config, auto(), folder, cut_after=7)
    assert len(trials) == 5 - kept
    result = train(config, auto(), folder)
    assert len(trials) == 5 - kept
    assert same(result, whole)
    assert result.search is not None
    assert whole.search is not None
    assert result.search.table == whole.search.table
    assert result.search.seconds_before == result.search.seconds > 0


def test_a_signal_ends_the_search_after_the_step_at_hand(
    tmp_path: Path, trials: list[tuple[float, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(CONFIG, auto())
    folder = CheckpointFolder(tmp_path / "x", "digest", 1)
    real = ShortTraining.record

    def record(self: ShortTraining, step: Any) -> str:
        if len(trials) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, step)

    for where, checkpoints in (("goes on after them", folder), ("starts it again", None)):
        trials.clear()
        with monkeypatch.context() as patch:
            patch.setattr(ShortTraining, "record", record)
            with pytest.raises(StoppedError) as stopped:
                train(CONFIG, auto(), checkpoints)
        assert stopped.value.exit_code == 128 + signal.SIGTERM
        assert str(stopped.value) == (
            "stopped by SIGTERM in the search of the learning rate, after 2 of 5 short trainings; "
            f"`dvc repro` {where}"
        )
    trials.clear()
    assert same(train(CONFIG, auto(), folder), whole)
    assert len(trials) == 3


def test_a_signal_in_the_last_step_of_a_trial_is_not_lost(
    trials: list[tuple[float, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ShortTraining.record

    def record(self: ShortTraining, step: Any) -> str:
        if len(trials) == 5 and step.number == self.steps:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, step)

    monkeypatch.setattr(ShortTraining, "record", record)
    with pytest.raises(StoppedError, match="after 5 of 5 short trainings"):
        train(CONFIG, auto())


@pytest.mark.parametrize("content", ["", "{}", '{"digest": "another", "trials": []}'])
def test_kept_trials_of_something_else_are_not_used(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = CheckpointFolder(tmp_path / "x", "digest", 1)
    folder.folder.mkdir()
    (folder.folder / TRIALS).write_text(content)
    assert same(train(CONFIG, auto(), folder), train(CONFIG, auto()))
    assert "is damaged or of another training; the search starts again" in capsys.readouterr().out


def test_a_disk_that_refuses_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    folder = CheckpointFolder(tmp_path / "x", "digest", 100)
    monkeypatch.setattr("pipeline.training.kept_trials.write_json", refuse)
    assert train(CONFIG, auto(), folder).step == 12
    assert "warning: no trial kept" in capsys.readouterr().out


def test_without_checkpoints_no_trial_is_kept(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "x", "digest", None)
    assert train(CONFIG, auto(), folder).step == 12
    assert not folder.folder.exists()


# The stages.

SEARCH = {"lowest": 1e-4, "highest": 1.0, "candidates": 3}


def test_the_stage_goes_on_with_a_killed_search_and_writes_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inputs").mkdir()
    make_training_folder(tmp_path)
    params = faulty_params(Path("inputs/model"))
    params["train"] |= {"learning_rate": "auto", "learning_rate_search": SEARCH}
    write_params(tmp_path, params)
    # Nothing there, and no waiting for it: outboxes keep what was to reach MLflow.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with working_in(tmp_path):
        stage.run(load_params(), VARIANT)
        expected = outs(tmp_path)
        found = read_json(paths.TRAIN / VARIANT.name / "metrics.json")
        table: Any = pd.DataFrame(found["learning_rate_search"])
        assert list(table) == ["round", "learning_rate", "steps", "validation_loss"]
        assert list(table["steps"]) == [4, 4, 4, 6, 6]
        last = table[table["round"] == 2]
        assert found["learning_rate"] == last.loc[last["validation_loss"].idxmin(), "learning_rate"]
        timed = read_timing(VARIANT.name)
        assert 0 < timed["search_seconds"] < timed["training_seconds"]

        forget(tmp_path)
        real = KeptTrials.write

        def cut(self: KeptTrials, trials: Sequence[Trial]) -> None:
            real(self, trials)
            if len(trials) == 2:
                raise CutOffError

        with monkeypatch.context() as patch:
            patch.setattr(KeptTrials, "write", cut)
            with pytest.raises(CutOffError):
                stage.run(load_params(), VARIANT)
        assert len(list(paths.CHECKPOINTS.glob(f"*/{TRIALS}"))) == 1
        stage.run(load_params(), VARIANT)
        assert outs(tmp_path) == expected

        # A rate that is given leaves nothing of the search, in the timings neither.
        params["train"]["learning_rate"] = found["learning_rate"]
        write_params(tmp_path, params)
        stage.run(load_params(), VARIANT)
        given = outs(tmp_path)
        assert "search_seconds" not in read_timing(VARIANT.name)
    assert given["prefix.safetensors"] == expected["prefix.safetensors"]
    assert given["history.csv"] == expected["history.csv"]


@DEAR
@pytest.mark.real
def test_a_sweep_shows_the_rates_and_what_they_cost(workspace: Workspace) -> None:
    def edit(params: dict[str, Any]) -> None:
        params["sweep"] |= {"lengths": [2], "initializations": ["random"]}
        params["train"] |= {"learning_rate": "auto", "learning_rate_search": SEARCH}
        own = {"type": "lora", "rank": 2, "learning_rate": "auto"}
        params["trained_baselines"] = {"lora": {**own, "learning_rate_search": {"candidates": 2}}}

    workspace.edit(edit)
    workspace.run("dvc", "repro")
    data = workspace.root / "data"
    summary: Any = pd.read_csv(data / "report" / "summary.csv").set_index("name")
    names = ["len2-random-seed0", "lora-seed0"]
    for name in names:
        metrics = read_json(data / "train" / name / "metrics.json")
        assert summary.loc[name, "learning_rate"] == metrics["learning_rate"]
        timed = read_json(data / "timings" / f"{name}.json")
        (run,) = runs(workspace, f"tags.state = 'current' and tags.variant = '{name}'")
        assert run.data.params["train.learning_rate"] == "auto"
        assert float(run.data.params["learning_rate"]) == metrics["learning_rate"]
        assert run.data.metrics["time/search_seconds"] == timed["search_seconds"]
        assert not any(
            "learning_rate" in key for key in set(run.data.metrics) - {"train/learning_rate"}
        )
        kept = client(workspace).download_artifacts(run.info.run_id, "learning_rate_search.json")
        assert len(read_json(Path(kept))["data"]) == len(metrics["learning_rate_search"])
    assert pd.isna(summary.loc["no_prefix", "learning_rate"])
    page = (data / "report" / "report.md").read_text()
    assert f"| {summary.loc[names[0], 'learning_rate']:g} " in page
    assert "of these, the rate's search (s)" in (data / "timings" / "timings.md").read_text()
    assert "up to date" in workspace.run("dvc", "status").stdout
