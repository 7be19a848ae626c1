"""The pictures of what is inside a prefix: heat map, lines by layer, and bars of loss."""

from collections.abc import Callable, Iterable
from typing import Any

import altair as alt
import pandas as pd

from pipeline.comparison.plots.style import COLOURS, HEIGHT, WIDTH, Chart, number, styled
from pipeline.inspection.blocks import blocks
from pipeline.inspection.found import Found
from pipeline.inspection.summary import MOVED, by_layer, by_token, losses, visible

Pictures = dict[str, tuple[str, Chart]]
"""By the file's name without its end, a title and a chart."""

MOST_COLUMNS = 64
"""Virtual tokens of a heat map; more share columns, block by block."""

LOSSES = {
    "nothing": "trained prefix",
    "trained keys": "start's keys, trained values",
    "trained values": "trained keys, start's values",
    "trained states": "trained keys and values, start's states",
    "training": "start",
    "prefix": "no prefix",
}
"""The bars of the losses of a whole prefix, by what is left out."""


def pictures_inside(found: Found) -> Pictures:
    """The pictures of the tables that are there, each with its title and the fonts of all."""
    return {file: (title, styled(chart, title)) for file, (title, chart) in _drawn(found).items()}


def _drawn(found: Found) -> Pictures:
    drawn: list[tuple[str, str, Callable[[Found], Chart], str]] = [
        ("attention", "Share of the inputs' attention, by layer and virtual token",
         attention_map, "attention"),
        ("movement", "How far keys and values moved from their start, by layer",
         movement_lines, "movement"),
        ("losses", "Loss with what training did to keys, to values, or to both",
         loss_bars, "ablation"),
        ("without_tokens", "Loss added by leaving out a virtual token", token_bars, "ablation"),
        ("without_layers", "Loss added by leaving out a layer's prefix", layer_bars, "ablation"),
    ]  # fmt: skip
    return {
        file: (title, draw(found)) for file, title, draw, table in drawn if table in found.tables
    }


def attention_map(found: Found) -> Chart:
    """A heat map: virtual tokens across, layers down, the share of attention as colour."""
    words = _words(found)
    rows = []
    table = found.tables["attention"].assign(place=lambda t: _places(t))
    places = list(dict.fromkeys(table["place"]))
    wide = table.pivot(index="place", columns="token", values="share").loc[places]
    for block in blocks(wide.shape[1], MOST_COLUMNS):
        share = wide[list(block)].sum(axis=1)
        rows += [
            {**_of_tokens(block, words), "place": place, "share": number(value)}
            for place, value in share.items()
        ]
    return (
        alt.Chart(_data(rows), width=WIDTH, height=max(120, 13 * len(places)))
        .mark_rect()
        .encode(
            x=_across(len(wide.columns)),
            y=alt.Y("place:N", title="layer", sort=None),
            color=alt.Color(
                "share:Q",
                title="share",
                # Most of it often goes to one token: its root lets the others be seen.
                scale=alt.Scale(type="sqrt", scheme="viridis", domainMin=0),
                legend=alt.Legend(format=".1%"),
            ),
            tooltip=[
                *_tooltip("tokens", "virtual token"), *_tooltip("word", "started as"),
                *_tooltip("place", "layer"), alt.Tooltip("share:Q", format=".2%"),
            ],
        )
    )  # fmt: skip


def movement_lines(found: Found) -> Chart:
    """Keys, values and states side by side: their way from the start as a share of its norm."""
    table = by_layer(found.tables)
    names = [name for name, column in MOVED.items() if column in table]
    rows = [
        {"place": place, "of": name, "moved": number(value)}
        for name in names
        for place, value in zip(_places(table), table[MOVED[name]], strict=True)
    ]
    chart = alt.Chart(_data(rows), width=WIDTH, height=HEIGHT).encode(
        x=alt.X("place:N", title="layer", sort=None, axis=alt.Axis(labelAngle=0)),
        y=alt.Y("moved:Q", title="distance / norm of the start", axis=alt.Axis(format="%")),
        color=alt.Color(
            "of:N", title=None, scale=alt.Scale(domain=names, range=COLOURS[: len(names)])
        ),
        shape=alt.Shape("of:N", title=None, scale=alt.Scale(domain=names)),
        tooltip=[
            *_tooltip("of", "tensor"), *_tooltip("place", "layer"),
            alt.Tooltip("moved:Q", format=".1%"),
        ],
    )  # fmt: skip
    return chart.mark_line(point=alt.OverlayMarkDef(size=45, filled=True))


def loss_bars(found: Found) -> Chart:
    """The loss with the trained prefix, with parts of its start, and without any."""
    measured = losses(found.tables)
    rows = [
        {"with": said, "loss": number(measured[name])}
        for name, said in LOSSES.items()
        if name in measured
    ]
    return _bars(
        rows,
        alt.X("loss:Q", title="loss (nats per target token)"),
        alt.Y("with:N", title=None, sort=None),
        [*_tooltip("with", "with"), alt.Tooltip("loss:Q", format=".4f")],
    ).properties(height=26 * len(rows))


def token_bars(found: Found) -> Chart:
    """A bar for each virtual token, or block of them: the loss that its absence adds."""
    words = _words(found)
    rows = [
        {
            **_of_tokens(range(row["first"], row["last"] + 1), words),
            "added": number(row["increase"]),
        }
        for row in found.tables["ablation"].query("without == 'tokens'").to_dict("records")
    ]
    return _bars(
        rows,
        _across(found.facts["length"]),
        alt.Y("added:Q", title="loss added (nats)"),
        [
            *_tooltip("tokens", "virtual token"), *_tooltip("word", "started as"),
            alt.Tooltip("added:Q", title="loss added", format="+.4f"),
        ],
    )  # fmt: skip


def layer_bars(found: Found) -> Chart:
    """A bar for each layer, or block of layers: the loss that its prefix's absence adds."""
    table = found.tables["ablation"].query("without == 'layers'")
    several = table["part"].nunique() > 1
    rows = [
        {
            "place": (f"{row['part']} " if several else "") + _range(row["first"], row["last"]),
            "added": number(row["increase"]),
        }
        for row in table.to_dict("records")
    ]
    return _bars(
        rows,
        alt.X("place:N", title="layer", sort=None, axis=alt.Axis(labelAngle=0)),
        alt.Y("added:Q", title="loss added (nats)"),
        [
            *_tooltip("place", "layer"),
            alt.Tooltip("added:Q", title="loss added", format="+.4f"),
        ],
    )


def _bars(rows: list[dict[str, Any]], x: alt.X, y: alt.Y, tooltip: list[alt.Tooltip]) -> Chart:
    return (
        alt.Chart(_data(rows), width=WIDTH, height=HEIGHT // 2 + 40)
        .mark_bar(color=COLOURS[0])
        .encode(x=x, y=y, tooltip=tooltip)
    )


def _across(tokens: int) -> alt.X:
    return alt.X("tokens:N", title="virtual token", sort=None, axis=alt.Axis(labelAngle=0))


def _tooltip(field: str, title: str) -> list[alt.Tooltip]:
    return [alt.Tooltip(f"{field}:N", title=title)]


def _of_tokens(block: Iterable[int], words: dict[int, str]) -> dict[str, str]:
    """The name of a block of virtual tokens, and the words that they started as."""
    tokens = list(block)
    return {
        "tokens": _range(tokens[0], tokens[-1]),
        "word": " ".join(words.get(token, "") for token in tokens[:8]).strip(),
    }


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _words(found: Found) -> dict[int, str]:
    tokens = by_token({name: t for name, t in found.tables.items() if name == "words"})
    if "start" not in tokens:
        return {}
    return dict(zip(tokens["token"], tokens["start"].map(visible), strict=True))


def _places(table: pd.DataFrame) -> list[str]:
    """Each row's layer, with its part where there are several."""
    if table["part"].nunique() == 1:
        return [str(layer) for layer in table["layer"]]
    return [f"{part} {layer}" for part, layer in zip(table["part"], table["layer"], strict=True)]


def _data(rows: list[dict[str, Any]]) -> alt.InlineData:
    return alt.InlineData(values=rows)
