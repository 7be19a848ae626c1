"""`python -m pipeline inspect`, and what the report shows of the best prefix, after a sweep."""

import csv
import json
import re
from pathlib import Path

import pandas as pd
import pytest
import vl_convert
from click.testing import CliRunner

from pipeline.cli.main import main
from pipeline.prefix import PrefixConfig, PrefixModel
from tests.browser import needs_chromium, open_page
from tests.conftest import CORPUS, Workspace, tiny_model

pytestmark = pytest.mark.real

NAME = "len4-corpus-seed0"
TABLES = (
    *("movement", "movement_of_tokens", "words", "attention", "attention_of_layers", "ablation"),
)


@pytest.fixture
def inside(finished: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """This process inside the finished workspace, whose outputs a test here leaves as they are."""
    monkeypatch.chdir(finished.root)
    return finished


def run(*arguments: str) -> str:
    result = CliRunner().invoke(main, ["inspect", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(main, ["inspect", *arguments])
    assert result.exit_code == 1
    assert "Traceback" not in result.stderr
    return result.stderr


def test_a_variant_into_a_folder(inside: Workspace, tmp_path: Path) -> None:
    out = tmp_path / "looked"
    said = run(NAME, "--examples", "2", "--split", "test", "--output", str(out))
    assert f"{NAME}: 4 virtual tokens in 2 layers, started from tokens of texts/corpus.txt" in said
    assert "loss on 2 examples of test" in said
    found = {path.name for path in out.iterdir()}
    pictures = {"attention", "movement", "losses", "without_tokens", "without_layers"}
    assert found == {
        *(f"{name}.csv" for name in TABLES),
        *(f"{name}.png" for name in pictures),
        *("facts.json", "inspection.html"),
    }
    page = (out / "inspection.html").read_text()
    assert not re.search(r"<link|<script[^>]* src=|@import", page)
    words = pd.read_csv(out / "words.csv")
    assert list(words[words["rank"] == 1]["start"]) == list(CORPUS[:4])
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    # Into its own folder again, the same bytes.
    run(NAME, "--examples", "2", "--split", "test", "--output", str(out))
    after = {path.name: path.read_bytes() for path in out.iterdir()}
    assert after == before


def test_what_cannot_be_looked_into_is_a_sentence(inside: Workspace, tmp_path: Path) -> None:
    assert "'nobody' is no variant of params.yaml" in refused("nobody")
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    assert "is there and holds no inspection" in refused(NAME, "--output", str(other))
    assert [path.name for path in other.iterdir()] == ["notes.txt"]


def test_a_variant_that_is_not_trained_yet(
    copy: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copy.root)
    copy.edit(lambda p: p["sweep"]["lengths"].append(3))
    assert "'len3-corpus-seed0' is not trained yet; run `dvc repro`" in refused("len3-corpus-seed0")
    assert "len3-random-seed0" in refused("best")


def test_an_imported_adapter(copy: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copy.root)
    monkeypatch.setattr(vl_convert, "vegalite_to_png", lambda *_, **__: b"picture")
    adapter = PrefixModel(tiny_model(), PrefixConfig(num_virtual_tokens=3))
    adapter.save_pretrained(copy.root / "adapters" / "theirs")
    entry = {"type": "adapter", "path": "adapters/theirs"}
    copy.edit(lambda p: p["baselines"].update(theirs=entry))
    said = run("theirs", "--examples", "0")
    assert "where theirs started is not known here" in said
    assert "attention, ablation: no input is read" in said
    folder = copy.root / "data" / "inspection" / "theirs"
    assert {path.name for path in folder.iterdir()} == {"facts.json", "words.csv"}


def test_the_stage_looked_into_the_best(finished: Workspace) -> None:
    folder = finished.root / "data" / "inspection"
    with (finished.root / "data" / "report" / "summary.csv").open() as file:
        (best,) = (row["name"] for row in csv.DictReader(file) if row["is_best"] == "True")
    facts = json.loads((folder / "best" / "facts.json").read_text())
    assert (facts["variant"], facts["examples"], facts["split"]) == (best, 2, "validation")
    starts = pd.read_csv(folder / "starts.csv", keep_default_na=False, dtype=str)
    assert list(starts["initialization"]) == ["corpus"] * 6 + ["random"] * 2
    text = starts[starts["initialization"] == "corpus"]
    assert list(text["word"]) == [*CORPUS[:2], *CORPUS[:4]]
    assert set(text["seed"]) == {""}
    noise = starts[starts["initialization"] == "random"]
    assert list(noise["length"]) == ["2", "4"]
    assert set(noise["origin"]) == {"noise of standard deviation 1"}
    assert set(noise["word"]) == {""}


def test_the_report_shows_it(finished: Workspace) -> None:
    report = finished.root / "data" / "report"
    page, markdown = ((report / f"report.{end}").read_text() for end in ("html", "md"))
    for text in (page, markdown):
        assert "Inside the best prefix" in text
        assert "In the median layer training moved keys by" in text
        assert "What each start is made of" in text
        assert "noise of standard deviation 1" in text
    assert '<span class="token">E</span> <span class="token">a</span>' in page
    for name in ("attention", "movement", "losses"):
        assert f"](plots/inside_{name}.png)" in markdown
        assert (report / "plots" / f"inside_{name}.png").stat().st_size > 1000


def test_a_report_alone_does_not_show_another_prefix(
    copy: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copy.root)
    monkeypatch.setattr(vl_convert, "vegalite_to_png", lambda *_, **__: b"picture")
    path = copy.root / "data" / "inspection" / "best" / "facts.json"
    path.write_text(path.read_text().replace('"variant": "len', '"variant": "before-len'))
    result = CliRunner().invoke(main, ["report"])
    assert result.exit_code == 0, result.output
    page = (copy.root / "data" / "report" / "report.html").read_text()
    assert "is not looked into yet" in page
    assert "In the median layer" not in page


@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_its_charts_are_drawn_within_the_page(finished: Workspace, width: int) -> None:
    with open_page(width) as page:
        page.goto((finished.root / "data" / "report" / "report.html").as_uri())
        page.wait_for_selector("html[data-drawn=true]")
        heading = page.get_by_role("heading", name="Inside the best prefix")
        assert heading.is_visible()
        titles = page.locator("figure.chart figcaption").all_inner_texts()
        assert "Share of the inputs' attention, by layer and virtual token" in titles
        assert page.evaluate("document.documentElement.scrollWidth") <= width
