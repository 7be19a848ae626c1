"""The report page and its pictures: what they say follows from the tables, and can be read."""

import csv
import re
import struct
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.comparison.choice import setting_of
from pipeline.comparison.conclusion import conclude
from pipeline.comparison.plots.by_cost import by_cache_bytes, by_stored_bytes
from pipeline.comparison.plots.embedding import drawing_script
from pipeline.comparison.plots.still import save
from pipeline.comparison.plots.subject import Subject
from pipeline.comparison.plots.table import draw, pictures
from pipeline.config import Params
from pipeline.config.objective import DistillationObjective
from pipeline.config.shown import shown_params
from pipeline.metrics.table import METRICS
from tests.conftest import Workspace, tiny_params
from tests.sweep_runs import VARIANTS, client, runs

FOREIGN = re.compile(r"<link|<img|<iframe|@import|url\(|<script[^>]* src")


class Page(HTMLParser):
    """The cells of a page's tables, its pictures, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.pictures: list[str] = []
        self.text = ""
        self.in_picture = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        # Neighbouring cells are words of their own.
        self.text += " " if tag in ("td", "th") else ""
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        elif tag == "figure":
            self.pictures.append("")
        self.in_picture = tag == "figcaption"

    def handle_data(self, data: str) -> None:
        if self.in_picture and data.strip():
            self.pictures[-1] = data
        self.text += data
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def html(workspace: Workspace) -> str:
    return (workspace.root / "data" / "report" / "report.html").read_text(encoding="utf-8")


def summary(workspace: Workspace) -> list[dict[str, str]]:
    with (workspace.root / "data" / "report" / "summary.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.real
def test_the_page_needs_nothing_else(finished: Workspace) -> None:
    page = html(finished)
    assert not FOREIGN.search(page.replace(drawing_script(), ""))
    assert len(Page(page).pictures) >= 5


@pytest.mark.real
def test_the_table_is_the_summary(finished: Workspace) -> None:
    rows = Page(html(finished)).rows
    table = summary(finished)
    shown = rows[1 : 1 + len(table)]
    assert [row[0].split(" ")[0] for row in shown] == [row["name"] for row in table]
    losses = [float(row["validation_loss"]) for row in table]
    assert losses == sorted(losses)
    assert "Sorted by validation loss, best first" in Page(html(finished)).text
    for row, expected in zip(shown, table, strict=True):
        assert any(cell.startswith(f"{float(expected['test_loss']):.3f} [") for cell in row)
        assert f"{float(expected['validation_loss']):.3f}" in row


@pytest.mark.real
def test_examples_have_every_output(finished: Workspace) -> None:
    page = Page(html(finished))
    markdown = (finished.root / "data" / "report" / "report.md").read_text()
    for name in [*VARIANTS, "no_prefix"]:
        # Once in the table, once for each of the five examples of the split.
        assert len(re.findall(rf"\b{name}\b", page.text)) >= 6
        assert len(re.findall(rf"\b{name}\b", markdown)) >= 6
    assert "size: 0 km\ntest 0?" in page.text
    for path in re.findall(r"\]\((plots/[^)]*)\)", markdown):
        assert (finished.root / "data" / "report" / path).exists()


@pytest.mark.real
def test_the_conclusion_names_the_winner(finished: Workspace) -> None:
    table = summary(finished)
    (winner,) = (row for row in table if row["is_best"] == "True")
    assert winner == next(row for row in table if row["kind"] == "variant")
    page = Page(html(finished)).text
    setting = winner["name"].replace("-seed0", "")
    assert f"The best prefix is {setting}, with a test loss of " in page
    assert f"{float(winner['test_loss']):.3f}" in page
    score = f"{float(winner['validation_loss']):.3f}"
    assert f"It is chosen by its validation loss, {score} on 4 examples." in page
    assert f"The prefix of {winner['name']}, of the best setting's seeds the best" in page
    winners = re.findall(r'<tr class="winner"[^>]*>\s*<th[^>]*>([^<]*)', html(finished))
    assert winners == [winner["name"]]


@pytest.mark.real
def test_timings_are_beside_the_report_and_on_the_sweeps_run(finished: Workspace) -> None:
    folder = finished.root / "data" / "timings"
    text = (folder / "timings.md").read_text()
    assert "training (s)" in text
    for name in VARIANTS:
        assert re.search(rf"{name} +\| \d", text)
    assert (folder / "quality_by_training_seconds.png").exists()
    (parent,) = runs(finished, "tags.kind = 'sweep' and tags.state = 'current'")
    mlflow = client(finished)
    found = {
        item.path
        for part in ("report", "timings")
        for item in mlflow.list_artifacts(parent.info.run_id, part)
    }
    assert {"report/report.html", "report/best", "timings/timings.md"} <= found
    experiment = mlflow.get_experiment(parent.info.experiment_id)
    note = experiment.tags["mlflow.note.content"]
    (winner,) = (row for row in summary(finished) if row["is_best"] == "True")
    assert f"Best prefix: `{winner['name']}`, test loss {float(winner['test_loss']):.3f}" in note
    # Links that stay on whatever server shows them.
    assert re.search(r"\(#/experiments/\d+/runs\?\S*viewStateShareKey=comparison-", note)
    assert f"/runs/{parent.info.run_id}/artifacts/report/report.html" in note


@pytest.mark.real
def test_a_column_of_markup_stays_text(copy: Workspace) -> None:
    path = copy.root / "data" / "evaluate" / VARIANTS[0] / "predictions.jsonl"
    lines = path.read_text().splitlines()
    lines[0] = re.sub(r'"prediction": "[^"]*"', '"prediction": "<b>|a|</b>"', lines[0])
    path.write_text("\n".join(lines) + "\n")
    copy.pipeline("report")
    page = html(copy)
    assert "&lt;b&gt;|a|&lt;/b&gt;" in page
    assert "<b>|a|" not in page
    markdown = (copy.root / "data" / "report" / "report.md").read_text()
    assert r"&lt;b>\|a\|&lt;/b>" in markdown


def big_params(**report: Any) -> Params:
    raw = tiny_params(Path("/somewhere/of/mine/tiny-model"))
    raw["sweep"].update(
        lengths=[2, 4, 8, 16], initializations=["random", "corpus"], seeds=[0, 1, 2]
    )
    raw["sweep"]["train_sizes"] = [3, 6]
    raw["evaluate"]["metrics"] = ["exact_match"]
    raw["report"].update(report)
    raw["evaluate"]["splits"] = sorted({"test", raw["report"].get("split", "test")})
    return Params.model_validate(raw)


def over_one_seed(table: pd.DataFrame) -> pd.DataFrame:
    """The table over seeds, with the scores of each setting's first seed."""
    settings = table.assign(setting=table["name"].map(setting_of), seeds=1)
    counts = settings.groupby("setting")["seeds"].transform("sum")
    first = settings.assign(seeds=counts).drop_duplicates("setting")
    return first.assign(name=first["setting"]).drop(columns="setting")


def big_table(params: Params) -> pd.DataFrame:
    from pipeline.sweep.grid import sweep

    draw = np.random.default_rng(0)
    rows: list[dict[str, Any]] = [
        {
            "name": variant.name,
            "kind": "variant",
            "length": variant.length,
            "initialization": variant.initialization,
            "seed": variant.seed,
            "train_size": variant.train_size or 12,
            "stored_bytes": 1000 * variant.length,
            "test_loss": float(draw.uniform(0.5, 2)),
            "test_perplexity": 2.0,
            "test_exact_match": 0.5,
        }
        for variant in sweep(params)
    ]
    baseline = {"kind": "baseline", "length": 0, "stored_bytes": 0, "test_loss": 2.5}
    baseline |= {"test_perplexity": 9.0, "test_exact_match": 0.1}
    rows.append({**baseline, "name": "no_prefix", "initialization": "no_prefix"})
    return pd.DataFrame(rows).astype({"seed": "Int64", "train_size": "Int64"})


@pytest.mark.slow
def test_pictures_of_a_large_sweep(tmp_path: Path) -> None:
    params = big_params()
    table = big_table(params)
    curves = pd.DataFrame(
        [
            {"initialization": name, "length": p, "seed": seed, "step": step, "loss": 3 / step}
            for name in params.sweep.initializations
            for p in params.sweep.lengths
            for seed in params.sweep.seeds
            for step in range(1, 5)
        ]
    )
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        for file, chart in draw(params, table, over_one_seed(table), curves).items():
            save(chart, folder / file, params.report.dpi)
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert names == {
        *("test_loss.png", "test_perplexity.png", "test_exact_match.png", "loss_curves.png"),
        *("test_loss_by_stored_bytes.png", "test_loss_by_train_size.png"),
    }
    for name in names:
        content = (tmp_path / "one" / name).read_bytes()
        assert content == (tmp_path / "two" / name).read_bytes()
        width, height = struct.unpack(">II", content[16:24])
        assert width > 400
        assert height > 200


def test_a_baseline_that_stores_something_has_a_mark() -> None:
    params = big_params()
    table = big_table(params)
    text = {"kind": "baseline", "name": "text", "initialization": "text", "length": 100}
    text |= {"stored_bytes": 500, "test_loss": 1.0}
    table = pd.concat([table, pd.DataFrame([text])], ignore_index=True)
    subject = Subject(table, over_one_seed(table), pd.DataFrame(), "test", METRICS["loss"])
    encodings = [layer["encoding"] for layer in by_stored_bytes(subject).to_dict()["layer"]]
    scales = [shown["shape"]["scale"] for shown in encodings if "shape" in shown]
    for scale in scales:
        shapes = dict(zip(scale["domain"], scale["range"], strict=True))
        assert shapes["no_prefix (baseline)"] == "stroke"
        assert shapes["text (baseline)"] != "stroke"
    assert scales


def test_prefixes_for_a_text_are_shown_against_their_cache() -> None:
    """Beside the line of the text itself, in the context, which is a point as well."""
    params = big_params()
    assert not any("cache" in picture.file for picture in pictures(params))
    distilled = DistillationObjective(
        type="distillation", teacher="text", path="data/teachers/text"
    )
    train = params.train.model_copy(update={"objective": distilled})
    params = params.model_copy(update={"train": train})
    files = [picture.file for picture in pictures(params)]
    assert "test_loss_by_cache_bytes.png" in files
    assert not any("kl" in file for file in files)
    taught = params.evaluate.model_copy(update={"teacher": "data/teachers/text"})
    judged = pictures(params.model_copy(update={"evaluate": taught}))
    assert "test_kl_by_cache_bytes.png" in [picture.file for picture in judged]
    table = big_table(params)
    text = {"kind": "baseline", "name": "text", "initialization": "text", "length": 100}
    text |= {"stored_bytes": 500, "test_loss": 1.0}
    table = pd.concat([table, pd.DataFrame([text])], ignore_index=True)
    seeds = over_one_seed(table).assign(cache_bytes=lambda rows: rows["length"] * 96)
    subject = Subject(table, seeds, pd.DataFrame(), "test", METRICS["loss"])
    chart = by_cache_bytes(subject).to_dict()
    drawn = chart["datasets"][chart["data"]["name"]]
    assert {row["mark"] for row in drawn if row["name"] == "text"} == {"point", "level"}
    points = {row["name"]: row["x"] for row in drawn if row["mark"] == "point"}
    whole = subject.plain
    assert points == {r["name"]: r["cache_bytes"] for r in whole.to_dict("records") if r["length"]}


def test_params_are_shown_without_paths_of_the_machine() -> None:
    text = shown_params(big_params(), ("model", "sweep"))
    assert "/somewhere" not in text
    assert "path: tiny-model" in text
    assert "train_sizes:" in text


def outcome(
    loss: dict[str, float], p: float, examples: int = 200, seeds_of_each: int = 1, **report: Any
) -> list[str]:
    """The conclusion over settings with the given losses; those named base are baselines.

    They are listed best first on validation.
    """
    params = big_params(resamples=999, **report)
    split = str(params.report.split)
    rows = [
        {
            "name": name,
            "kind": "baseline" if name.startswith("base") else "variant",
            "seeds": seeds_of_each,
            "trainable_parameters": 1234,
            "stored_bytes": 5_000_000,
            "validation_loss": 0.7 + place,
            "length": 2000 if name.startswith("base") else 8,
            "cache_bytes": 46_000_000 if name.startswith("base") else 184_320,
            "test_loss": value,
            f"{split}_loss": value,
            f"{split}_loss_std": float("nan") if seeds_of_each == 1 else 0.05,
            f"{split}_loss_low": value - 0.2,
            f"{split}_loss_high": value + 0.3,
            f"{split}_loss_p_value": p,
        }
        for place, (name, value) in enumerate(loss.items())
    ]
    draw = np.random.default_rng(0)
    runs = {f"{name}-seed{seed}": name for name in loss for seed in range(seeds_of_each)}
    nats = {run: loss[name] + 0.1 * draw.normal(size=30) for run, name in runs.items()}
    statistics = {
        run: {(split, "loss"): np.stack([values, np.ones(30)], axis=1)}
        for run, values in nats.items()
    }
    table = pd.DataFrame({"name": list(runs)})
    return conclude(table, pd.DataFrame(rows), statistics, params, examples)


def test_a_winner_is_told_by_how_much() -> None:
    text = " ".join(outcome({"len4-a": 1.0, "len8-a": 1.5, "base": 2.0}, p=0.001))
    assert "The best prefix is len4-a, with a test loss of 1.000 [0.800, 1.300]." in text
    assert "It is chosen by its validation loss, 0.700 on 200 examples." in text
    assert "It beats the best baseline, base (2.000), by 1.000 nats per target token;" in text
    assert "significant at 5% (p ≤ 0.0010, corrected for 2 comparisons)" in text
    assert "The next best setting on validation is len8-a (1.500), 0.500 nats per target " in text
    assert "token behind; significant at 5% (p ≤ 0.0010)." in text
    assert (
        "It keeps 5.0 MB beside the frozen model (1,234 trained numbers), and a query goes on from "
        "8 tokens (184.3 kB of cache), where base takes 2,000 tokens (46.0 MB of cache): 1,992 "
        "tokens saved with every query." in text
    )


def test_a_lost_or_doubtful_comparison_is_told_as_one() -> None:
    text = " ".join(outcome({"len4-a": 1.0, "base": 0.9}, p=0.4))
    assert "The best baseline, base (0.900), beats it by 0.100" in text
    assert "not significant at 5% (p = 0.400)." in text
    doubtful = " ".join(outcome({"len4-a": 1.0, "len8-a": 1.001}, p=float("nan")))
    assert "is len8-a (1.001)" in doubtful
    assert "not significant" in doubtful
    assert "baseline" not in doubtful


def test_what_is_not_a_number_is_neither_ahead_nor_behind() -> None:
    not_a_number = float("nan")
    for losses in (
        {"len4-a": not_a_number, "len8-a": 1.5, "base": 2.0},
        {"len4-a": 1.0, "len8-a": not_a_number, "base": not_a_number},
    ):
        _, _, against_baseline, against_others, *_ = outcome(losses, p=not_a_number)
        cannot = "cannot be compared with it: one of the two is not a number."
        shown = {name: METRICS["loss"].shown(loss) for name, loss in losses.items()}
        assert against_baseline == f"The best baseline, base ({shown['base']}), {cannot}"
        assert f"is len8-a ({shown['len8-a']}), {cannot}" in against_others


def test_one_that_is_better_on_test_is_not_called_the_best() -> None:
    text = " ".join(outcome({"len4-a": 1.0, "len8-a": 0.5, "len2-a": 1.4, "base": 2.0}, p=0.001))
    assert "The best prefix is len4-a" in text
    assert "is len8-a (0.500), 0.500 nats per target token ahead; significant at 5%" in text
    assert "Of the 2 other settings 1 are significantly behind." in text


def test_the_page_says_what_its_verdicts_do_not_know() -> None:
    losses = {"len4-a": 1.0, "len8-a": 1.5, "base": 2.0}
    one_seed = outcome(losses, p=0.001)[-1]
    assert "another seed would change is unknown" in one_seed
    assert "p values are of these very trainings" in one_seed
    assert "few to choose by" not in one_seed
    assert "32 validation examples are few to choose by" in outcome(losses, 0.001, examples=32)[-1]
    flattered = outcome(losses, p=0.001, split="validation")
    assert "chosen on the split that it is measured on" in flattered[-1]
    several = outcome(losses, p=0.001, seeds_of_each=3)
    assert not any("To bear in mind" in sentence for sentence in several)
    assert "(mean of 3 seeds, standard deviation 0.050)" in several[0]
