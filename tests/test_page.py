"""The report's page in a browser: it is whole without a network, fits, sorts, filters and hides."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from pipeline.config import Params
from tests.browser import needs_chromium, open_page, open_report
from tests.written_sweep import params_of, write_report, write_sweep

pytestmark = [pytest.mark.slow, needs_chromium]

HOSTILE = "</script><script>window.hacked = 1</script><b>|`{{ 7 * 7 }}\x00\x1b\u2028\u202e&amp;"

# What of a chart's text lies outside its picture, by more than a pixel.
CUT_OFF = """() => [...document.querySelectorAll("figure.chart .view svg")].flatMap((svg) => {
  const box = svg.getBoundingClientRect();
  return [...svg.querySelectorAll("text")].filter((text) => {
    const own = text.getBoundingClientRect();
    const isSeen = own.width > 0 && text.getAttribute("opacity") !== "0";
    return isSeen && (own.left < box.left - 1 || own.right > box.right + 1
      || own.top < box.top - 1 || own.bottom > box.bottom + 1);
  }).map((text) => text.textContent);
})"""
# Names of lines in a picture of which less than the whole is seen: its frame cuts them off.
CUT_BY_FRAME = """() => [...document.querySelectorAll("svg .role-mark.mark-text text")].filter(
  (text) => {
    const frame = text.closest(".mark-text").parentElement.parentElement
      .querySelector(":scope > path.background").getBoundingClientRect();
    const own = text.getBoundingClientRect();
    return own.top < frame.top - 1 || own.bottom > frame.bottom + 4;
  }).map((text) => text.textContent)"""
TOO_WIDE = """() => document.scrollingElement.scrollWidth > window.innerWidth"""
TABLE = "document.querySelectorAll('.sortable')[0]"


class Browser:
    """A page that notes what it asks for and what it complains of."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.asked: list[str] = []
        self.said: list[str] = []
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("console", lambda message: self.said.append(message.text))

    def open(self, path: Path, width: int = 1280) -> Page:
        """A page with all of its charts drawn."""
        self.asked.clear()
        self.said.clear()
        self.page.set_viewport_size({"width": width, "height": 900})
        open_report(self.page, path)
        return self.page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_page() as page:
        yield Browser(page)


def report_of(folder: Path, params: Params, **written: Any) -> Path:
    """The page of a sweep in this folder."""
    write_sweep(folder, params, **written)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return write_report(params)


SMALL = params_of(
    sweep={"lengths": [2, 8, 16], "in_context": ["corpus"]},
    report={"sort_by": "loss", "resamples": 100},
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report_of(tmp_path_factory.mktemp("small"), SMALL)


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 settings of three seeds, with the longest names, and thousands of steps."""
    names = [f"start_{index:02}_" + "with_a_long_name_" * 2 for index in range(12)]
    starts: dict[str, Any] = {
        name: {"type": "random", "path": "data/model/config.json"} for name in names
    }
    bare = {"type": "no_prefix", "path": "data/model/config.json"}
    params = params_of(
        baselines={"no_prefix": bare, "nothing_before_a_query_" * 2 + "at_all": bare},
        initializations=starts,
        sweep={"lengths": [4, 8, 16, 32], "initializations": names, "seeds": [0, 1, 2]},
        kv_prefix={"max_length": 64},
        report={"resamples": 100},
    )
    folder = tmp_path_factory.mktemp("big")
    return report_of(folder, params, examples=40, steps=2000, text=" and more of it" * 4)


def cells(page: Page, column: int) -> list[str]:
    """What a column of the first table shows, in rows that are not filtered out."""
    script = f"""[...{TABLE}.querySelectorAll("tbody tr")].filter((row) => !row.hidden)
      .map((row) => row.cells[{column}].textContent.split(" [")[0])"""
    return list(page.evaluate(script))


def header(page: Page, text: str) -> Any:
    return page.locator(".sortable").first.locator("thead th", has_text=text).first


def test_nothing_is_fetched_and_nothing_said(browser: Browser, small: Path) -> None:
    page = browser.open(small)
    assert browser.asked == [small.as_uri()]
    assert not browser.said
    assert page.locator("figure.chart svg.marks").count() == page.locator("figure.chart").count()
    # Vega's menu, whose entries lead to an editor in the network, is not there.
    assert page.locator("details.vega-embed, .vega-actions, a[href^='http']").count() == 0
    page.evaluate("fetch('https://example.org').catch(() => null)")
    assert browser.asked == [small.as_uri()]


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("sweep", ["small", "big"])
def test_it_fits(browser: Browser, request: pytest.FixtureRequest, sweep: str, width: int) -> None:
    path = request.getfixturevalue(sweep)
    page = browser.open(path, width)
    assert page.evaluate(CUT_OFF) == []
    assert page.evaluate(CUT_BY_FRAME) == []
    assert not page.evaluate(TOO_WIDE)
    table = page.locator(".sortable .wide").first
    overflow = table.evaluate("box => box.scrollWidth - box.clientWidth")
    assert width < 1000 or overflow <= 0
    assert path.stat().st_size < 3_000_000


def test_a_click_sorts_by_numbers(browser: Browser, small: Path) -> None:
    page = browser.open(small)
    given = cells(page, 0)
    length = header(page, "length")
    length.locator("button").click()
    numbers = [int(cell) for cell in cells(page, 1)]
    assert numbers == sorted(numbers)
    assert numbers != [int(cell) for cell in sorted(map(str, numbers))]
    assert length.get_attribute("aria-sort") == "ascending"
    length.locator("button").press("Enter")
    assert [int(cell) for cell in cells(page, 1)] == sorted(numbers, reverse=True)
    assert page.locator(".sortable").first.locator("[aria-sort]").count() == 1
    # What has no value is last, whichever way.
    p_value = header(page, "p")
    place = p_value.evaluate("header => header.cellIndex")
    for _ in range(2):
        p_value.locator("button").click()
        shown = cells(page, place)
        held = [cell for cell in shown if cell]
        assert held
        assert shown == [*held, *[""] * (len(shown) - len(held))]
    name = header(page, "name")
    name.locator("button").click()
    assert cells(page, 0) != given
    assert sorted(cells(page, 0)) == sorted(given)


def test_rows_are_filtered(browser: Browser, small: Path) -> None:
    page = browser.open(small)
    controls = page.locator(".controls").first
    everything = cells(page, 0)
    controls.get_by_label("Find").fill("CORPUS")
    assert cells(page, 0) == [name for name in everything if "corpus" in name]
    controls.get_by_label("Kind").select_option("baseline")
    chosen = [name for name in everything if "in_context_corpus" in name]
    assert cells(page, 0) == chosen
    assert controls.locator("output").text_content() == f"{len(chosen)} of {len(everything)} rows"
    controls.get_by_label("Find").fill("")
    controls.get_by_label("Kind").select_option("")
    controls.get_by_label("Length").select_option("8")
    controls.get_by_label("Initialisation").select_option("random")
    assert cells(page, 0) == ["len8-random-seed0"]


def test_all_columns_are_there_on_demand(browser: Browser, small: Path) -> None:
    page = browser.open(small)
    hidden = page.locator(".sortable").first.locator("thead th.more")
    assert hidden.count() > 0
    assert not hidden.first.is_visible()
    page.get_by_label("All columns").first.check()
    assert hidden.first.is_visible()
    assert not page.evaluate(TOO_WIDE)


def test_a_legend_turns_series_off(browser: Browser, small: Path) -> None:
    page = browser.open(small)
    figure = page.locator("figure.chart").first
    points = figure.locator("svg.marks g.mark-symbol path")
    before = points.count()
    button = figure.get_by_role("button", name="random", exact=True)
    button.click()
    page.wait_for_function(
        """(count) => document.querySelector("figure.chart")
          .querySelectorAll("svg.marks g.mark-symbol path").length < count""",
        arg=before,
    )
    assert button.get_attribute("aria-pressed") == "false"
    assert points.count() == before - 3
    # Other pictures keep theirs.
    other = page.locator("figure.chart").nth(1)
    assert other.get_by_role("button", name="random").get_attribute("aria-pressed") == "true"
    figure.get_by_role("button", name="log scale").click()
    page.wait_for_timeout(300)
    assert points.count() == before - 3, "a redrawn picture forgot what is off"
    button.press("Enter")
    page.wait_for_timeout(300)
    assert points.count() == before
    everything = figure.get_by_role("button", name="all", exact=True)
    everything.click()
    page.wait_for_timeout(300)
    assert points.count() == 0
    button.click()
    page.wait_for_timeout(300)
    assert points.count() == 3
    everything.click()
    page.wait_for_timeout(300)
    assert points.count() == before


def test_a_scale_may_be_logarithmic(browser: Browser, small: Path) -> None:
    page = browser.open(small)
    figure = page.locator("figure.chart").first
    labels = figure.locator("svg.marks .role-axis-label text")
    before = labels.all_text_contents()
    figure.get_by_role("button", name="log scale").click()
    page.wait_for_timeout(500)
    assert labels.all_text_contents() != before
    assert page.evaluate(CUT_OFF) == []
    # A share of zero has no logarithm.
    shares = page.locator("figure.chart", has_text="exact match")
    assert shares.get_by_role("button", name="log scale").count() == 0


def test_a_mark_tells_its_values(browser: Browser, small: Path) -> None:
    page = browser.open(small)
    figure = page.locator("figure.chart").first
    figure.scroll_into_view_if_needed()
    figure.locator("svg.marks g.mark-symbol path").first.hover(force=True)
    tip = page.locator("#vg-tooltip-element.visible")
    tip.wait_for()
    text = tip.inner_text()
    assert re.search(r"setting\s+len\d+-(random|corpus)", text)
    assert re.search(r"score\s+\d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]", text)


def test_examples_are_searched_and_sorted(browser: Browser, small: Path) -> None:
    page = browser.open(small)
    controls = page.get_by_role("group", name="Search and order of examples")
    examples = page.locator(".example")
    assert examples.count() == 12
    controls.get_by_label("Find").fill("question 7?")
    assert page.locator(".example:not([hidden]) .id").all_text_contents() == ["test-7"]
    controls.get_by_label("Find").fill("")
    for order, key, descending in (
        ("worst of the best prefix", "score", True),
        ("best of the best prefix", "score", False),
        ("where outputs differ most", "distinct", True),
        ("where the prefix helps most", "gain", True),
    ):
        controls.get_by_label("Order").select_option(order)
        values = examples.evaluate_all(f"all => all.map((one) => Number(one.dataset.{key}))")
        assert values == sorted(values, reverse=descending), order
        assert len(set(values)) > 1
    controls.get_by_role("button", name="Unfold all").click()
    assert page.locator(".example:not([open])").count() == 0


def test_the_data_run_nothing(browser: Browser, tmp_path: Path) -> None:
    params = params_of(report={"resamples": 100})
    path = report_of(tmp_path, params, examples=3, text=HOSTILE)
    page = browser.open(path)
    assert page.evaluate("window.hacked === undefined")
    assert not browser.said
    assert (
        "</script><script>window.hacked = 1</script><b>|`{{ 7 * 7 }}␀␛"
        in page.locator(".example pre").first.inner_text()
    )
    assert page.locator(".example b").count() == 3
    # If markup got through after all: the policy lets no other script run.
    page.evaluate(
        """document.body.append(Object.assign(document.createElement("script"),
          { textContent: "window.hacked = 2" }))"""
    )
    assert page.evaluate("window.hacked === undefined")


def test_print_and_no_script(browser: Browser, small: Path) -> None:
    page = browser.open(small)
    assert page.pdf(format="A4")[:4] == b"%PDF"
    page.emulate_media(media="print")
    try:
        page.set_viewport_size({"width": 690, "height": 900})
        assert not page.locator(".controls").first.is_visible()
        assert page.locator(".sortable th.more").first.is_visible()
        table = page.locator(".sortable .wide").first
        assert table.evaluate("box => box.scrollWidth - box.clientWidth") <= 0
        assert not page.evaluate(TOO_WIDE)
    finally:
        page.emulate_media(media="screen")
    assert page.context.browser is not None
    plain = page.context.browser.new_context(java_script_enabled=False).new_page()
    plain.goto(small.as_uri())
    assert plain.locator(".conclusion p").first.is_visible()
    assert plain.locator(".sortable tbody tr").count() == 10
    assert plain.locator("figure noscript").first.is_visible()
    plain.close()


def test_each_reference_has_a_line_of_its_own(browser: Browser, tmp_path: Path) -> None:
    params = params_of(report={"resamples": 100})
    write_sweep(tmp_path, params, examples=2)
    arabic = "\u0627\u0644\u0639\u0631\u0628\u064a\u0629 abc"
    for file in (tmp_path / "data" / "evaluate").glob("*/predictions.jsonl"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        texts = [
            json.dumps({**line, "references": ["one\ttab", arabic, "three"]}) for line in lines
        ]
        file.write_text("\n".join(texts) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        page = browser.open(write_report(params))
    shown = page.locator(".example").first.locator(".reference li")
    assert shown.all_text_contents() == ["one\ttab", arabic, "three"]
    tops = shown.evaluate_all("all => all.map((one) => one.getBoundingClientRect().top)")
    assert len(set(tops)) == 3
    # A line of Arabic begins at the right, one of Latin letters at the left.
    assert shown.evaluate_all("""all => all.map((one) => {
      const range = document.createRange();
      range.selectNodeContents(one);
      return range.getBoundingClientRect().left - one.getBoundingClientRect().left < 1;
    })""") == [True, False, True]


def test_losses_that_are_no_numbers(browser: Browser, tmp_path: Path) -> None:
    params = params_of(report={"resamples": 100})
    write_sweep(tmp_path, params)
    for name, loss in (("len2-corpus-seed0", float("nan")), ("len2-random-seed0", float("inf"))):
        folder = tmp_path / "data" / "evaluate" / name
        lines = [json.loads(line) for line in (folder / "predictions.jsonl").open()]
        texts = [json.dumps({**line, "loss": loss}) for line in lines]
        (folder / "predictions.jsonl").write_text("\n".join(texts) + "\n")
        metrics = json.loads((folder / "metrics.json").read_text())
        for split in params.evaluate.measured_splits:
            metrics[split]["loss"] = loss
        (folder / "metrics.json").write_text(json.dumps(metrics))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        page = browser.open(write_report(params))
    assert not browser.said
    shown = dict(zip(cells(page, 0), cells(page, 3), strict=True))
    assert shown["len2-corpus-seed0"] == "nan"
    assert shown["len2-random-seed0"] == "inf"
    assert "nan]" not in page.locator(".sortable").first.inner_text()


def test_a_single_value_has_an_axis(browser: Browser, tmp_path: Path) -> None:
    path = report_of(tmp_path, KINDS["one variant alone"], examples=1, steps=1)
    page = browser.open(path)
    assert "on 1 example." in page.locator(".conclusion").inner_text()
    for title in ("test: loss against prefix length", "training loss"):
        figure = page.locator("figure.chart", has=page.get_by_text(title, exact=True))
        assert figure.locator(".role-axis-label text").count() > 4
        point = figure.locator(".mark-symbol.role-mark path").last
        assert point.get_attribute("opacity") != "0"


KINDS: dict[str, Params] = {
    "one variant alone": params_of(
        sweep={"lengths": [4], "initializations": ["random"]}, baselines={}
    ),
    "classes": params_of(
        task={"type": "seq_cls", "use_chat_template": False},
        evaluate={"splits": ["test"], "metrics": []},
        report={"sort_by": "accuracy", "resamples": 100},
    ),
    "seeds and training sizes": params_of(
        sweep={"seeds": [0, 1], "train_sizes": [3, 6]},
        trained_baselines={"lora": {"type": "lora"}},
        report={"resamples": 100},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_sweep_has_a_page(browser: Browser, tmp_path: Path, kind: str) -> None:
    path = report_of(tmp_path, KINDS[kind], examples=1 if kind == "one variant alone" else 5)
    for width in (390, 1280):
        page = browser.open(path, width)
        assert not browser.said
        assert page.evaluate(CUT_OFF) == []
        assert not page.evaluate(TOO_WIDE)
        assert page.locator("figure.chart svg.marks g.mark-symbol path").count() > 0


def test_the_same_files_give_the_same_page(tmp_path: Path) -> None:
    pages = [report_of(tmp_path / name, SMALL) for name in ("one", "two")]
    first, second = (path.read_bytes() for path in pages)
    assert first == second
    specs = re.findall(rb'class="spec">(.*?)</script>', first)
    assert specs
    assert all(json.loads(spec)["usermeta"]["legend"] for spec in specs)
