"""A chart as a picture that is the same on every run."""

from pathlib import Path

import vl_convert

from pipeline.comparison.plots.style import Chart


def save(chart: Chart, path: Path, dpi: int) -> None:
    """Write a chart as PNG, `dpi` dots per inch of 72 pixels; the same chart gives the same bytes.

    It is drawn here by Vega itself, which may fetch nothing.
    """
    # Altair checked each part when it was made; the whole once more takes as long as drawing it.
    spec = chart.to_dict(validate=False)
    path.write_bytes(vl_convert.vegalite_to_png(spec, ppi=dpi, allowed_base_urls=[]))
