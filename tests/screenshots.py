"""The pictures of docs/, from a real browser: `python -m tests.screenshots [NAME...]`.

They show what `make repro` left in the working folder: its data, and its runs in MLflow.
"""

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

from pipeline.config import load_params
from pipeline.tracking.serving import serving
from pipeline.tracking.store import open_experiment
from pipeline.tracking.view import view_link
from pipeline.workspace import paths
from tests.browser import open_page, open_report

DOCS = Path(__file__).resolve().parent.parent / "docs"

# MLflow opens its assistant, a third of the page, on a browser's first visit alone.
_SECOND_VISIT = """
for (const [key, value] of [["fab.autoOpenedOnFirstLoad", true], ["panelOpen", false]])
  localStorage.setItem(`mlflow.assistant.${key}_v1`, JSON.stringify(value));
"""


@dataclass(frozen=True)
class Picture:
    """`draw` brings a page of this size to what it shows; then that is written."""

    draw: Callable[[Page], None]
    width: int = 1280
    height: int = 800


def _of_mlflow(charts: bool) -> Callable[[Page], None]:
    def draw(page: Page) -> None:
        page.add_init_script(_SECOND_VISIT)
        experiment_id = open_experiment(load_params())
        with serving() as (address, _):
            page.goto(f"{address}/{view_link(experiment_id, charts)}")
            page.get_by_text("matching runs").wait_for(timeout=120_000)
            page.wait_for_timeout(5000)  # charts are drawn one after another

    return draw


def _of_report(page: Page) -> None:
    open_report(page, paths.REPORT / "report.html")


PICTURES = {
    "mlflow": Picture(_of_mlflow(charts=False), width=1440, height=700),
    "mlflow_charts": Picture(_of_mlflow(charts=True), width=1440, height=1050),
    "report": Picture(_of_report, width=1280, height=1500),
    "report_narrow": Picture(_of_report, width=390, height=1500),
}


def main(names: list[str]) -> None:
    """Write docs/<name>.png for each name, or for all."""
    for name in names or PICTURES:
        picture = PICTURES[name]
        with open_page(picture.width, picture.height) as page:
            picture.draw(page)
            content = page.screenshot()
        Image.open(io.BytesIO(content)).convert("RGB").save(DOCS / f"{name}.png", optimize=True)
        print(DOCS / f"{name}.png")


if __name__ == "__main__":
    main(sys.argv[1:])
