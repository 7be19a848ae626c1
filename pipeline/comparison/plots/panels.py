"""Pictures of several panels with one scale."""

from collections.abc import Sequence

import altair as alt

from pipeline.comparison.plots.style import Chart
from pipeline.comparison.plots.subject import Row

PANEL_WIDTH, PANEL_HEIGHT = 250, 210
_LINE = 30


def in_panels(layers: Sequence[alt.Chart], rows: list[Row], order: Sequence[str]) -> Chart:
    """A panel for each value of the field `panel`, up to three side by side."""
    layered = alt.layer(*layers, width=PANEL_WIDTH, height=PANEL_HEIGHT)
    header = alt.Header(title=None, labelExpr="split(datum.label, '\\n')")
    facet = alt.Facet("panel:N", sort=list(order), title=None, header=header)
    columns = 2 if len(order) == 4 else min(3, len(order))
    return layered.properties(data=alt.InlineData(values=rows)).facet(facet=facet, columns=columns)


def heading(text: str) -> str:
    """A panel's heading in lines that a narrow panel has room for."""
    lines = [""]
    for word in text.replace("_", "_\0").replace("-", "-\0").replace(" ", " \0").split("\0"):
        parts = [word[at : at + _LINE] for at in range(0, len(word), _LINE)]
        for part in parts:
            if lines[-1] and len(lines[-1]) + len(part) > _LINE:
                lines.append("")
            lines[-1] += part
    return "\n".join(lines)
