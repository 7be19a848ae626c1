"""A chart as a picture that is the same on every run."""

from pathlib import Path

import vl_convert

from pipeline.comparison.plots.style import Chart


def save(chart: Chart, path: Path, dpi: int) -> None:
    """Write a chart as PNG, `dpi` dots per inch of 72 pixels; the same chart gives the same bytes.

    It is drawn here by Vega itself, which may fetch nothing.
    """
    path.write_bytes(vl_convert.vegalite_to_png(chart.to_dict(), ppi=dpi, allowed_base_urls=[]))
