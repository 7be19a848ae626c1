"""What was found in a prefix, as text for a terminal."""

import pandas as pd
from tabulate import tabulate

from pipeline.inspection.found import Found
from pipeline.inspection.summary import by_layer, by_token, losses

MOST_ROWS = 32
"""Virtual tokens that are shown: of more those without which the loss is highest."""

_HEADERS = {
    "start": "started as",
    "nearest": "nearest words (cosine)",
    "key_moved": "keys moved",
    "value_moved": "values moved",
    "state_moved": "states moved",
    "attention": "attention",
    "increase": "loss without",
}


def shown(found: Found) -> str:
    """A heading, the losses, the two tables, and what could not be shown."""
    facts = found.facts
    lines = [
        f"{facts['variant']}: {facts['length']} virtual tokens in {facts['layers']} layers, "
        f"started from {facts['origin']}"
    ]
    if examples := facts["examples"]:
        lines.append(f"loss on {examples} examples of {facts['split']}, nats per target token:")
        lines += [f"  {loss:.4f} {said}" for said, loss in sentences(found).items()]
    tokens = by_token(found.tables)
    if len(tokens) > MOST_ROWS:
        lines.append(f"the {MOST_ROWS} virtual tokens that the loss needs most, of {len(tokens)}:")
        ranked = tokens.sort_values("increase", ascending=False, kind="stable")
        tokens = ranked.head(MOST_ROWS).sort_index()
    for table in (tokens, by_layer(found.tables)):
        if table.shape[1] > 1:
            lines += ["", _table(table)]
    lines += [f"\n{note}" for note in found.notes]
    return "\n".join(lines)


def sentences(found: Found) -> dict[str, float]:
    """What the losses of a prefix are of, in words."""
    said = {
        "nothing": "as it is",
        "prefix": "without the prefix, the inputs at their positions",
        "training": "with the start in its place",
        "trained keys": "with the start's keys and the trained values",
        "trained values": "with the trained keys and the start's values",
        "trained states": "with the start's states, all else trained",
    }
    return {said[name]: loss for name, loss in losses(found.tables).items()}


def cells(table: pd.DataFrame) -> dict[str, list[str]]:
    """A table of `summary` as texts, column by column, by what heads each."""
    if "part" in table and table["part"].nunique() == 1:
        table = table.drop(columns="part")
    return {
        _HEADERS.get(str(name), str(name)): [_cell(str(name), value) for value in table[name]]
        for name in table
    }


def _table(table: pd.DataFrame) -> str:
    columns = cells(table)
    left = ("started as", "nearest words (cosine)", "part")
    align = ["left" if name in left else "right" for name in columns]
    return str(tabulate(columns, headers="keys", colalign=align, disable_numparse=True))


def _cell(name: str, value: object) -> str:
    if value is None or value != value:
        return ""
    if name in ("key_moved", "value_moved", "state_moved", "attention"):
        return f"{float(str(value)):.1%}"
    return f"{float(str(value)):+.4f}" if name == "increase" else str(value)
