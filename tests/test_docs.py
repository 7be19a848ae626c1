"""The docs site builds without a warning and asks no other host; links of all documents lead on."""

import json
import os
import re
import subprocess
import sys
from functools import cache
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from click.testing import CliRunner
from markdown import Markdown
from pymdownx.slugs import slugify

import pipeline.prefix
from pipeline.cli.main import main
from pipeline.config import Params
from tests.browser import needs_chromium, open_page
from tests.conftest import DEAR, ROOT

NOTEBOOKS = sorted(ROOT.glob("docs/notebooks/*.ipynb"))
PAGES = sorted(
    {*ROOT.glob("*.md"), *ROOT.glob("[a-z]*/README.md"), *ROOT.glob("docs/**/*.md"), *NOTEBOOKS}
)


class _Read(HTMLParser):
    """The anchors of a page, and what it links to and loads."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.cells: list[str] = []
        self._tag = ""
        self.feed(html)

    def handle_data(self, data: str) -> None:
        if self._tag in ("th", "td"):
            self.cells.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._tag = tag
        found = {key: value for key, value in attrs if value}
        self.anchors |= {found[key] for key in ("id", "name") if key in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if "src" in found:
            self.links.append(found["src"])
            self.loaded.append(found["src"])
        if tag == "link" and "href" in found and found.get("rel") != "canonical":
            self.loaded.append(found["href"])


@cache
def read(path: Path) -> _Read:
    """A Markdown page or a notebook as GitHub has it: its headings' anchors, its links."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells)
    anchors = {"toc": {"slugify": slugify(case="lower")}}
    extensions = ["toc", "tables", "fenced_code", "attr_list", "md_in_html"]
    return _Read(Markdown(extensions=extensions, extension_configs=anchors).convert(text))


def broken(page: Path, root: Path = ROOT) -> list[str]:
    """The relative links of a page that lead to no file, or to no anchor of it."""
    found = []
    for link in read(page).links:
        if re.match(r"[a-z]+:|//", link):
            continue
        where, _, anchor = link.partition("#")
        target = page.parent / unquote(where) if where else page
        there = target.exists() and target.resolve().is_relative_to(root)
        if not there or (anchor and target.suffix == ".md" and anchor not in read(target).anchors):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_table_has_its_headings(page: Path) -> None:
    """One that lost them shows the line of dashes below them as its first row."""
    assert not [cell for cell in read(page).cells if re.fullmatch(r":?-{3,}:?", cell.strip())]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_to_a_file_and_an_anchor(page: Path) -> None:
    assert broken(page) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# There\n\n## What `it` has, and why\n")
    (tmp_path / "page.md").write_text(
        "[a](there.md) [b](here.md) [c](there.md#what-it-has-and-why) [d](there.md#what)\n"
        "[e](https://example.org) [f](#below) [g](#beside) ![h](none.png) [i](../../etc)\n\n"
        "```md\n[j](no.md)\n```\n\n## Below\n"
    )
    assert broken(tmp_path / "page.md", tmp_path) == [
        *("here.md", "there.md#what", "#beside", "none.png", "../../etc")
    ]


def build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    # `-P`: without the working folder on the path, as the script `mkdocs` runs.
    command = [sys.executable, "-P", "-m", "mkdocs", "build", "--strict"]
    command += ["--config-file", str(config)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(
        [*command, "--site-dir", str(site)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built once; a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    built = build(ROOT / "mkdocs.yml", folder)
    assert built.returncode == 0, built.stderr
    assert not re.search(r"warn|error", built.stdout + built.stderr, re.IGNORECASE), built.stderr
    return folder


def text_of(page: Path) -> str:
    """The text of a built page, without its tags."""
    return unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


@pytest.mark.slow
def test_a_page_loads_nothing_from_another_host(site: Path) -> None:
    for page in site.rglob("*.html"):
        for loaded in _Read(page.read_text(encoding="utf-8")).loaded:
            assert not re.match(r"(https?:)?//", loaded), (page, loaded)
            if page.name != "404.html":
                assert (page.parent / unquote(loaded.partition("?")[0])).exists(), (page, loaded)


@pytest.mark.slow
def test_the_site_has_what_code_knows(site: Path) -> None:
    """Each key of the schema, each command's help, each name of the method."""
    page = (site / "reference" / "params.html").read_text(encoding="utf-8")
    listed = set(re.findall(r"<td><code>([\w.]+)</code></td>", page))
    parts = {part for path in listed for part in path.split(".")}
    schema = Params.model_json_schema()
    for name, section in schema["$defs"].items():
        assert set(section.get("properties", {})) <= parts, name
    for name in schema["properties"]:
        assert f'<h2 id="{name}"' in page
    # Of kinds that the default run has none of, and a default that is made anew each time.
    for row in (
        "<td><code>corpus_tokens</code></td>\n<td>a whole number ≥ 1</td>\n<td><code>512</code>",
        '<td><code>splits.train</code></td>\n<td>a text</td>\n<td><code>"train"</code>',
        "<td><code>chat_template_kwargs</code></td>\n<td>a mapping</td>\n<td><code>{}</code>",
        "<code>^(auto|cpu|mps|cuda(:\\d+)?)$</code>",
    ):
        assert row in unescape(page), row
    commands = text_of(site / "reference" / "command_line.html")
    for name in main.commands:
        shown = CliRunner().invoke(main, [name, "--help"], prog_name="python -m pipeline")
        options = re.findall(r"--[a-z][a-z-]+", shown.output)
        assert f"python -m pipeline {name}" in commands
        assert all(option in commands for option in options), name
    names = text_of(site / "reference" / "python.html")
    assert all(f"pipeline.prefix.{name}" in names for name in pipeline.prefix.__all__)


@pytest.mark.slow
@needs_chromium
def test_pages_and_search_work_from_the_disk_and_fit_a_phone(site: Path) -> None:
    with open_page(width=390) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        for name in ("index", "get_started", "reference/params", "notebooks/read_a_sweep"):
            page.goto((site / f"{name}.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
        page.locator("label.md-header__button[for='__search']").click()
        page.keyboard.type("gradient checkpointing")
        page.wait_for_selector(".md-search-result__item")
        assert asked
        assert all(url.startswith(("file:", "data:", "blob:", "about:")) for url in asked)


@DEAR
@pytest.mark.slow
def test_a_page_beside_the_nav_and_a_link_to_nowhere_fail_the_build(tmp_path: Path) -> None:
    """In a small site of the same settings: what `strict` is good for."""
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    settings = settings[: settings.index("\nnav:")].replace("docs/hooks/", f"{ROOT}/docs/hooks/")
    settings = re.sub(r"  - mkdocstrings:\n(?:      .*\n|        .*\n)*", "", settings)
    settings = re.sub(r"^watch:.*\n", "", settings, flags=re.MULTILINE)
    (tmp_path / "mkdocs.yml").write_text(settings + "\nnav: [README.md, docs/a.md]\n")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "iframe-worker.js").touch()
    (tmp_path / "README.md").write_text("# Home\n\n[a](docs/a.md) [L](LICENSE)\n")
    (tmp_path / "LICENSE").write_text("Free.")
    (tmp_path / "docs" / "a.md").write_text("# A\n\n[home](../README.md#home)\n")
    assert build(tmp_path / "mkdocs.yml", tmp_path / "site").returncode == 0
    assert (tmp_path / "site" / "LICENSE").read_text() == "Free."

    (tmp_path / "docs" / "b.md").write_text("# B\n\n[a](a.md#none) [c](c.md)\n")
    refused = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert refused.returncode != 0
    for said in ("- docs/b.md", "does not contain an anchor '#none'", "'c.md'"):
        assert said in refused.stderr, refused.stderr


def test_the_nav_names_what_there_is() -> None:
    """Every document stands in the nav once, so that a reader of the site finds it."""
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    nav = settings.split("\nnav:\n")[1]
    named = re.findall(r"- (?:[^:\n]+: )?(\S+\.(?:md|ipynb))$", nav, flags=re.MULTILINE)
    assert sorted(named) == [page.relative_to(ROOT).as_posix() for page in PAGES]
