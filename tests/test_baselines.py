"""Baselines, a training size and a further rate through their stages, by a tiny model, no DVC."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from ruamel.yaml import YAML

from pipeline.cli.main import main
from pipeline.config import Params, load_params
from pipeline.errors import DivergedError, PipelineError
from pipeline.inference.selection import choose, choose_prefix
from pipeline.schema.learning_rate import RateSearch
from pipeline.stages import (
    baseline_start,
    baselines,
    evaluate,
    evaluate_baseline,
    fetch_data,
    fetch_model,
    in_context,
    kv_prefix,
    report,
    tokenize,
    train,
    train_baseline,
)
from pipeline.storage.records import read_json, read_jsonl
from pipeline.sweep.baselines import Baseline
from pipeline.sweep.grid import all_baselines, sweep
from pipeline.sweep.variants import Variant
from pipeline.workspace import paths
from pipeline.workspace.timings import read_timing, record_timing
from tests.conftest import CORPUS, rows, tiny_params

pytestmark = pytest.mark.real

TRAINED = {
    "lora": {"type": "lora", "rank": 2, "max_steps": 3},
    "prompt": {"type": "prompt_tuning", "num_virtual_tokens": 3, "max_steps": 3},
    "both": {
        **{"type": "prefix_and_lora", "initialization": "corpus", "length": 2, "rank": 2},
        "max_steps": 3,
    },
}
NAMES = [
    *("no_prefix", "whole_text", "in_context_corpus-len2"),
    *(f"{name}-seed{seed}" for name in TRAINED for seed in (0, 1)),
]
METRICS = ("loss", "perplexity", "exact_match", "token_f1", "bleu", "chrf", "rouge_l")


def write_inputs(model_folder: Path) -> Params:
    inputs = Path("inputs")
    inputs.mkdir()
    pd.DataFrame(rows("train", 12)).to_json(inputs / "train.jsonl", orient="records", lines=True)
    pd.DataFrame(rows("validation", 4)).to_csv(inputs / "validation.csv", index=False)
    pd.DataFrame(rows("test", 5)).to_parquet(inputs / "test.parquet")
    (inputs.parent / "texts").mkdir()
    (inputs.parent / "texts" / "corpus.txt").write_text(CORPUS * 3)
    params: dict[str, Any] = tiny_params(model_folder)
    params["sweep"] = {
        **{"lengths": [2], "initializations": ["corpus"], "seeds": [0, 1]},
        **{"train_sizes": [], "learning_rates": [5e-2], "in_context": ["corpus"]},
    }
    whole_text = {"type": "in_context", "path": "texts/corpus.txt", "max_tokens": None}
    params["baselines"]["whole_text"] = whole_text
    params["trained_baselines"] = TRAINED
    params["initializations"].pop("random")
    with Path("params.yaml").open("w") as file:
        YAML(typ="safe").dump(params, file)
    return load_params()


def by_command(stage: str, variant: Variant, rate: str) -> None:
    """A stage of a variant at a rate, which the command line may write as it likes."""
    named = ("--length", "2", "--initialization", "corpus", "--seed", str(variant.seed))
    result = CliRunner().invoke(main, [stage, *named, "--learning-rate", rate])
    assert result.exit_code == 0, result.output


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    """A folder in which every stage has run."""
    root = tmp_path_factory.mktemp("stages")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
        params = write_inputs(model_folder)
        fetch_model.run(params)
        fetch_data.run(params)
        tokenize.run(params)
        kv_prefix.run(params, "corpus")
        for variant in sweep(params):
            if variant.is_plain:
                train.run(params, variant)
                evaluate.run(params, variant)
            else:
                by_command("train", variant, "5.0e-2")
                by_command("evaluate", variant, ".05")
        for name in params.baselines:
            baselines.run(params, name)
        in_context.run(params, 2, "corpus")
        for name in TRAINED:
            baseline_start.run(params, name)
            for seed in (0, 1):
                trained = Baseline(name, seed=seed)
                train_baseline.run(params, trained)
                evaluate_baseline.run(params, trained)
        report.run(params)
    return root


def test_the_table_holds_every_baseline_beside_every_variant(
    done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(done)
    table: Any = pd.read_csv(paths.REPORT / "summary.csv").set_index("name")
    params = load_params()
    assert sorted(b.name for b in all_baselines(params)) == sorted(NAMES)
    assert set(table.index) == {*NAMES, *(variant.name for variant in sweep(params))}
    for metric in METRICS:
        score, low, high = (table[f"test_{metric}{end}"] for end in ("", "_low", "_high"))
        assert ((low <= score) & (score <= high)).all()
    is_variant = table["kind"] == "variant"
    assert table.loc[is_variant, "test_loss_p_value"].between(0, 1).all()
    assert table.loc[~is_variant, "test_loss_p_value"].isna().all()
    (best,) = table.loc[is_variant, "compared_with"].unique()
    baselines = table[~is_variant]
    settings = baselines.index.str.replace(r"-seed\d", "", regex=True)
    of_settings = baselines["validation_loss"].groupby(settings).mean()
    assert best.startswith(of_settings.idxmin())
    assert table["is_best"].sum() == 1
    assert table.loc["len2-corpus-seed0", "train_size"] == 12
    assert table.loc["in_context_corpus-len2", "stored_bytes"] == 2 * 4
    assert table.loc["no_prefix", "stored_bytes"] == 0
    assert table.loc["lora-seed0", "trainable_parameters"] > 0
    adapter = paths.TRAIN / "lora-seed0" / "weights" / "adapter_model.safetensors"
    assert table.loc["lora-seed0", "stored_bytes"] == adapter.stat().st_size
    # The whole text is longer than what the longest example leaves of the context of 512.
    assert 400 < table.loc["whole_text", "length"] < 512


def test_seeds_are_one_row_of_the_second_table(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(done)
    table: Any = pd.read_csv(paths.REPORT / "summary.csv").set_index("name")
    seeds: Any = pd.read_csv(paths.REPORT / "over_seeds.csv").set_index("name")
    assert set(seeds.index) == {
        *("no_prefix", "whole_text", "in_context_corpus-len2", *TRAINED),
        *("len2-corpus", "len2-corpus-lr0.05"),
    }
    both = table.loc[["lora-seed0", "lora-seed1"], "test_loss"]
    assert seeds.loc["lora", "seeds"] == 2
    assert seeds.loc["lora", "test_loss"] == pytest.approx(both.mean())
    assert seeds.loc["lora", "test_loss_std"] == pytest.approx(both.std())
    assert seeds.loc["len2-corpus", "test_loss_p_value"] > 0
    low, high = (seeds[f"test_loss_{end}"] for end in ("low", "high"))
    assert ((low <= seeds["test_loss"]) & (seeds["test_loss"] <= high)).all()
    assert list(seeds.index[seeds["is_best"]]) == ["len2-corpus-lr0.05"]
    assert sorted(seeds["validation_loss"]) == list(seeds["validation_loss"])
    assert "±" in (paths.REPORT / "over_seeds.md").read_text()


def test_variants_and_baselines_have_the_same_metrics_in_mlflow(
    done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(done)
    client = MlflowClient(f"sqlite:///{done / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    told = [metric for metric in METRICS if metric != "perplexity"]
    wanted = {f"{split}/{metric}" for split in ("test", "measured_validation") for metric in told}
    wanted |= {
        "trainable_parameters",
        "stored_bytes",
        "time/decoding_tokens_per_second",
        "time/first_token_ms",
    }
    found = client.search_runs(
        [experiment.experiment_id], "tags.state = 'current' and tags.kind != 'sweep'"
    )
    assert len(found) == len(NAMES) + 4
    table: Any = pd.read_csv(paths.REPORT / "summary.csv").set_index("name")
    for run in found:
        name = run.data.tags["variant"]
        assert wanted <= set(run.data.metrics), name
        ends = [f"{table.loc[name, f'test_loss_{end}']:.3f}" for end in ("low", "high")]
        assert run.data.tags["test/loss interval"] == f"[{', '.join(ends)}]"
        if name.startswith(("len", *TRAINED)):
            seconds = run.data.metrics["time/training_seconds"]
            assert seconds > 0
            if not name.startswith("len"):
                assert run.info.end_time - run.info.start_time == int(1000 * seconds)
            points = client.get_metric_history(run.info.run_id, "train/loss")
            assert [point.step for point in points] == list(range(1, len(points) + 1))
            assert len(points) == (4 if name.startswith("len") else 3)
            # What validation comes to in the end is no step of the training's.
            validations = client.get_metric_history(run.info.run_id, "validation/loss")
            history = pd.read_csv(paths.TRAIN / name / "history.csv").dropna(
                subset="validation/loss"
            )
            assert [point.step for point in validations] == list(history["step"])


@pytest.mark.parametrize(
    ("name", "keys"), [("lora", "learning_rate"), ("both", "learning_rate prefix_learning_rate")]
)
def test_a_baseline_that_diverges_names_its_own_keys(
    done: Path, monkeypatch: pytest.MonkeyPatch, name: str, keys: str
) -> None:
    monkeypatch.chdir(done)
    raw = YAML(typ="safe").load((done / "params.yaml").read_text())
    raw["trained_baselines"][name]["learning_rate"] = 1e30
    named = " or ".join(rf"trained_baselines\.{name}\.{key}" for key in keys.split())
    with pytest.raises(DivergedError, match=f"^{named}: at step "):
        train_baseline.run(Params.model_validate(raw), Baseline(name, seed=7))


def test_a_search_that_diverges_names_the_rate_that_it_left(
    done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(done)
    raw = YAML(typ="safe").load((done / "params.yaml").read_text())
    raw["trained_baselines"]["both"] |= {"learning_rate": "auto", "prefix_learning_rate": 1e38}
    searched = r"trained_baselines\.both\.learning_rate_search: all 7 rates .* diverge; .*"
    left = r", or lower trained_baselines\.both\.prefix_learning_rate$"
    with pytest.raises(DivergedError, match=f"^{searched}{left}"):
        train_baseline.run(Params.model_validate(raw), Baseline("both", seed=7))


def test_mlflow_lists_every_table_of_a_training_whose_rate_was_searched(
    done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a tag of the run, to which the evaluation adds its own after those of the training."""
    monkeypatch.chdir(done)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{done / 'mlflow.db'}")
    params = load_params()
    searched = {"learning_rate": "auto", "learning_rate_search": RateSearch(candidates=2)}
    lora = params.trained_baselines["lora"].model_copy(update=searched)
    logged = params.mlflow.model_copy(update={"experiment": "searched", "models": "none"})
    params = params.model_copy(
        update={
            "train": params.train.model_copy(update=searched),
            "trained_baselines": {"lora": lora},
            "mlflow": logged,
        }
    )
    variant, trained = Variant(2, "corpus", 7), Baseline("lora", seed=7)
    train.run(params, variant)
    evaluate.run(params, variant)
    train_baseline.run(params, trained)
    evaluate_baseline.run(params, trained)
    client = MlflowClient()
    experiment = client.get_experiment_by_name("searched")
    assert experiment is not None
    for name in (variant.name, trained.name):
        (run,) = client.search_runs([experiment.experiment_id], f"tags.variant = '{name}'")
        tables = {
            table: client.load_table(experiment.experiment_id, f"{table}.json", [run.info.run_id])
            for table in ("learning_rate_search", "scores", "predictions")
        }
        trials = read_json(paths.TRAIN / name / "metrics.json")["learning_rate_search"]
        # Of validation and test: a row a metric of each, and their 4 and 5 examples.
        rows_of = {"learning_rate_search": len(trials), "scores": 2 * len(METRICS)}
        found = {table: len(shown) for table, shown in tables.items()}
        assert found == {**rows_of, "predictions": 4 + 5}


def test_the_text_in_the_context_is_where_a_variant_starts(
    done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its losses are those of its tokens before the input, by the frozen model alone."""
    import torch

    from pipeline.data.splits import load_split
    from pipeline.models.frozen import load_frozen_model
    from pipeline.models.tokenizer import load_tokenizer
    from pipeline.schema.compute import Compute

    monkeypatch.chdir(done)
    text = load_tokenizer(paths.MODEL).encode(CORPUS)[:2]
    model = load_frozen_model(paths.MODEL, Compute(device="cpu"))
    lines = read_jsonl(paths.EVALUATE / "in_context_corpus-len2" / "predictions.jsonl")
    lines = [line for line in lines if line["split"] == "test"]
    for row, line in zip(load_split(paths.TOKENIZED / "splits", "test"), lines, strict=True):
        ids = torch.tensor([[*text, *row["input_ids"]]])
        start = len(text) + row["target_start"]
        with torch.no_grad():
            predicted = model(ids).logits[0, start - 1 : -1]
        expected = torch.nn.functional.cross_entropy(predicted, ids[0, start:], reduction="sum")
        assert line["loss"] == pytest.approx(expected.item(), rel=1e-4)


def test_timings_are_kept_apart_from_what_dvc_compares(
    done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(done)
    found = read_timing("lora-seed0")
    assert set(found) == {
        *("training_seconds", "training_tokens_per_second"),
        *("evaluation_seconds", "decoding_tokens_per_second", "first_token_ms"),
        *("merged_decoding_tokens_per_second", "merged_first_token_ms"),
    }
    assert all(value > 0 for value in found.values())
    assert set(read_timing("both-seed0")) == set(found)
    assert set(read_timing("prompt-seed0")) == {key for key in found if "merged" not in key}
    assert "merged: decoding (tokens/s)" in (paths.TIMINGS / "timings.md").read_text()
    assert set(read_timing("no_prefix")) == {
        "evaluation_seconds",
        "decoding_tokens_per_second",
        "first_token_ms",
    }
    for folder in (paths.TRAIN, paths.EVALUATE, paths.REPORT):
        for path in folder.rglob("metrics.json"):
            assert not [key for key in read_json(path) if "second" in key]
    record_timing("another", training_seconds=2.0)
    record_timing("another", evaluation_seconds=1.0)
    assert read_timing("another") == {"training_seconds": 2.0, "evaluation_seconds": 1.0}
    (paths.TIMINGS / "another.json").write_text("{")
    assert read_timing("another") == {}
    assert read_timing("never_measured") == {}


def test_a_training_size_is_a_variant_and_a_baseline_of_its_own(
    done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(done)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{done / 'mlflow.db'}")
    params = load_params()
    sized = params.model_copy(
        update={"sweep": params.sweep.model_copy(update={"train_sizes": [4]})}
    )
    variant, trained = Variant(2, "corpus", 0, 4), Baseline("lora", seed=0, train_size=4)
    assert variant in sweep(sized)
    assert trained in all_baselines(sized)
    train.run(sized, variant)
    train_baseline.run(sized, trained)
    for name, whole in ((variant.name, "len2-corpus-seed0"), (trained.name, "lora-seed0")):
        assert name == f"{whole}-train4"
        own, other = (read_json(paths.TRAIN / n / "metrics.json") for n in (name, whole))
        assert (own["train_size"], other["train_size"]) == (4, 12)
        assert own["validation/initial_loss"] == other["validation/initial_loss"]
        assert own["validation/best_loss"] != other["validation/best_loss"]


def test_a_further_rate_is_a_variant_that_competes(
    done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(done)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{done / 'mlflow.db'}")
    params = load_params()
    table: Any = pd.read_csv(paths.REPORT / "summary.csv").set_index("name")
    rates = {name: table.loc[name, "learning_rate"] for name in table.index if name[:3] == "len"}
    assert rates == {
        f"len2-corpus-seed{seed}{suffix}": rate
        for seed in (0, 1)
        for suffix, rate in (("", 5e-3), ("-lr0.05", 5e-2))
    }
    # What is best may be at any rate, and p values count each that was tried.
    best = choose(params, "best")
    assert best.endswith("-lr0.05")
    summary = (paths.REPORT / "summary.md").read_text()
    assert "corrected for the 4 prefixes" in summary
    card = (paths.REPORT / "best" / "README.md").read_text()
    assert "learning_rate: 0.05" in card
    # One is named as any other, though its name has a dot, as a file's has.
    assert choose_prefix(params, best) == best
    with pytest.raises(PipelineError, match=r"'len2-corpus-seed0-lr0\.5' is no variant"):
        choose_prefix(params, "len2-corpus-seed0-lr0.5")
    for heading in ("validation loss", "test loss"):
        section = summary.split(f"### {heading} by learning rate\n\n")[1].split("\n\n")[0]
        head, _, row = (
            [cell.strip() for cell in line.split("|")[1:-1]] for line in section.split("\n")
        )
        assert head == ["", "0.005", "0.05"]
        assert [cell.endswith(" *") for cell in row] == [False, False, True]
    client = MlflowClient()
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], f"tags.variant = '{best}'")
    assert run.data.tags["dvc_stage"] == f"train_at_rate@2-corpus-{best[16]}-0.05"
    assert run.data.params["learning_rate"] == run.data.params["train.learning_rate"] == "0.05"
    version = client.get_model_version_by_alias("tiny", best.replace(".", "_"))
    assert version.run_id == run.info.run_id


def test_what_is_kept_of_a_prompt_and_of_a_prefix_beside_lora(
    done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(done)
    table: Any = pd.read_csv(paths.REPORT / "summary.csv").set_index("name")
    # Three embeddings of 32 numbers; two virtual tokens of two layers, keys and values of 2 x 8.
    assert table.loc["prompt-seed0", "trainable_parameters"] == 3 * 32
    both, lora = (table.loc[f"{name}-seed0", "trainable_parameters"] for name in ("both", "lora"))
    assert both == lora + 2 * 2 * 2 * 16
    assert table.loc["both-seed0", "stored_bytes"] > table.loc["lora-seed0", "stored_bytes"]
    assert list(table.loc[["prompt-seed0", "both-seed0", "lora-seed0"], "length"]) == [3, 2, 0]
    # It starts as the variant of the same initialisation and length does.
    for name, other in (("both-seed0", "len2-corpus-seed0"),):
        own, of_variant = (read_json(paths.TRAIN / n / "metrics.json") for n in (name, other))
        losses = [metrics["validation/initial_loss"] for metrics in (own, of_variant)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
        assert own["validation/best_loss"] < own["validation/initial_loss"]


def test_another_initialisation_is_none_of_a_baselines_start(
    done: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(done)
    params = load_params()

    def starts() -> dict[str, dict[str, bytes]]:
        found = {}
        for name in TRAINED:
            baseline_start.run(params, name)
            folder = paths.BASELINE_START / name
            found[name] = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        return found

    before = starts()
    assert list(before["lora"]) == ["none.txt"]
    kept = paths.KV_PREFIX / "corpus"
    assert before["both"] == {path.name: path.read_bytes() for path in sorted(kept.iterdir())}
    (paths.KV_PREFIX / "other").mkdir()
    (paths.KV_PREFIX / "other" / "definition.json").write_text("{}")
    assert starts() == before
    with pytest.raises(PipelineError, match="'ia3' is not under trained_baselines"):
        baseline_start.run(params, "ia3")


def test_the_tables_by_budget_are_in_the_report(
    done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(done)
    titles = [
        *("Within the same steps", "With as few trained numbers", "With as few stored bytes"),
        "Serving many tasks",
    ]
    for file, mark in (("report.html", "<h3>"), ("report.md", "### "), ("summary.md", "### ")):
        text = (paths.REPORT / file).read_text()
        assert [text.count(f"{mark}{title}") for title in titles] == [1] * 4, file
    timed = (paths.TIMINGS / "timings.md").read_text()
    assert "### Within the same seconds of training" in timed
    assert "Within the same seconds" in (paths.TIMINGS / "timings.html").read_text()
    assert "seconds" not in (paths.REPORT / "summary.md").read_text()
