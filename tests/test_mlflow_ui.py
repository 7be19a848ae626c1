"""What a person sees in MLflow, in a real browser: rows that can be compared, and their charts."""

import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from playwright.sync_api import Page

from pipeline.config import load_params
from pipeline.sweep.grid import sweep
from pipeline.tracking.results import interval_tag, scores
from pipeline.tracking.runs import start_run, variant_params, variant_tags
from pipeline.tracking.state import make_current
from pipeline.tracking.store import open_experiment
from tests.browser import needs_chromium, open_page
from tests.conftest import ROOT, Workspace, sweep_of, tiny_params

pytestmark = [pytest.mark.real, needs_chromium]

LENGTHS, STARTS = [2, 4, 8, 16], ["random", "corpus", "other"]
STEPS = 3


def loss_of(length: int, start: str) -> float:
    """A validation loss unlike that of any other variant."""
    return 1 / length + STARTS.index(start) + 0.123456


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Params of twelve variants, and the runs of all: of each a current and a superseded one."""
    folder = tmp_path_factory.mktemp("ui")
    params = tiny_params(folder)
    params["initializations"]["other"] = params["initializations"]["corpus"]
    params["sweep"] = sweep_of(LENGTHS, STARTS)
    Workspace(folder).write(params)
    with inside(folder):
        log_all()
    return folder


def log_all() -> None:
    params, client = load_params(), MlflowClient()
    experiment_id = open_experiment(params)
    for variant in sweep(params):
        for _ in range(2):
            tags = {**variant_tags(variant), interval_tag(params): "[1.000, 2.000]"}
            settings = variant_params(params, variant)
            run = start_run(experiment_id, variant.name, settings, tags, seconds=61)
            loss = loss_of(variant.length, variant.initialization)
            for step in range(STEPS):
                for name in ("train/loss", "validation/loss"):
                    client.log_metric(run, name, loss + 1 / (step + 1), step=step + 1)
            others = ("perplexity", "exact_match", "token_f1", "bleu", "chrf", "rouge_l")
            measured = {"loss": loss, **dict.fromkeys(others, 0.5)}
            mlflow.log_metrics(
                scores({"validation": measured, "test": measured}, "loss"), run_id=run
            )
            client.set_tag(run, "score", f"{loss:.3f}")
            make_current(experiment_id, variant.name, run)


@pytest.fixture(scope="module")
def printed(folder: Path) -> Iterator[dict[str, str]]:
    """The addresses that `python -m pipeline ui` prints, while it serves them; then Ctrl-C."""
    environment = {**Workspace(folder).environment, "PYTHONPATH": str(ROOT)}
    environment.pop("DISPLAY", None)
    command = ["python", "-m", "pipeline", "ui"]
    process = subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(3)]
    runs, charts = (re.search(r"http://\S+", line) for line in lines[:2])
    assert runs is not None, lines
    assert charts is not None, lines
    yield {"runs": runs[0], "charts": charts[0], "server": runs[0].split("/#")[0]}
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "MLflow's UI has ended." in output


IN_SIGHT = """cells => cells.map(cell => {
  const box = cell.getBoundingClientRect();
  const inside = box.width > 0 && box.right <= innerWidth && box.bottom <= innerHeight;
  const row = Number(cell.closest(".ag-row").getAttribute("row-index"));
  return [row, cell.getAttribute("col-id"), inside ? cell.innerText.trim().split("\\n").pop() : ""];
})"""
NAME, DURATION = "attributes.`Run Name`", "duration"


def rows_in_sight(page: Page) -> list[dict[str, str]]:
    """Of every row of the list of runs the cells inside the window, by column, unclicked."""
    page.get_by_text("matching runs").wait_for(timeout=120_000)
    page.locator(".ag-row .ag-cell").last.wait_for(timeout=60_000)
    page.wait_for_timeout(1000)
    found: dict[int, dict[str, str]] = {}
    # The grid keeps a row's pinned and its other columns in two elements of one index.
    for index, column, text in page.locator(".ag-row .ag-cell").evaluate_all(IN_SIGHT):
        found.setdefault(index, {})[column] = text
    return [row for _, row in sorted(found.items()) if row[NAME]]


def test_the_printed_page_shows_metric_length_and_initialisation(printed: dict[str, str]) -> None:
    """Of at least ten runs, best first, on the first visit of a browser."""
    with open_page(1440, 900) as page:
        page.goto(printed["runs"])
        rows = rows_in_sight(page)
        assert page.get_by_text("12 matching runs").is_visible()
    expected = sorted((loss_of(p, start), p, start) for p in LENGTHS for start in STARTS)
    assert len(rows) >= 10
    for row, (loss, length, start) in zip(rows, expected, strict=False):
        assert float(row["metrics.`measured_validation/loss`"]) == pytest.approx(loss)
        assert row["params.`length`"] == str(length)
        assert row["params.`initialization`"] == start
        assert row["params.`seed`"] == "0"


def test_charts_are_those_of_the_comparison(printed: dict[str, str]) -> None:
    """Loss over steps of every variant, bars, settings and score; what is hidden stays hidden."""
    titles = ["validation/loss", "measured_validation/loss", "Parallel Coordinates"]
    titles += ["train/loss", "test/loss", "length vs. test/loss"]
    with open_page(1600, 1400) as page:
        page.goto(printed["charts"])
        cards = page.get_by_test_id("experiment-view-compare-runs-card")
        cards.nth(len(titles) - 1).wait_for(timeout=120_000)
        shown = [card.inner_text().splitlines()[0] for card in cards.all()]
        assert shown[: len(titles)] == titles
        # A run is a line, and a band around it.
        curves = cards.nth(0).locator(".scatterlayer .trace")
        curves.nth(2 * len(LENGTHS) * len(STARTS) - 1).wait_for(state="attached", timeout=60_000)
        cards.nth(1).locator(".barlayer .point").nth(11).wait_for(timeout=60_000)
        cards.nth(2).locator("canvas").first.wait_for(timeout=60_000)
    assert not any("perplexity" in title for title in shown)


def test_a_bare_page_has_a_row_a_variant(printed: dict[str, str]) -> None:
    """With its score in its name; superseded ones are folded below it."""
    with open_page(1440, 900) as page:
        page.goto(f"{printed['server']}/#/experiments/1/runs")
        rows = rows_in_sight(page)
    expected = {f"{loss_of(p, start):.3f} ·" for p in LENGTHS for start in STARTS}
    assert {row[NAME][:7] for row in rows} == expected
    assert len(rows) == len(expected)
    assert {row[DURATION] for row in rows} == {"1.0min"}
