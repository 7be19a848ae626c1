"""What the page says of the inside of the best prefix, and of what every start is made of."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.comparison.plots.embedding import Embedding
from pipeline.comparison.plots.inside import Pictures, pictures_inside
from pipeline.comparison.plots.still import save
from pipeline.comparison.plots.style import Chart
from pipeline.comparison.rendering import render
from pipeline.comparison.tables import ShownTable
from pipeline.inspection.folder import read_found
from pipeline.inspection.found import Found
from pipeline.inspection.shown import cells, sentences
from pipeline.inspection.summary import MOVED, by_layer, by_token, losses, visible
from pipeline.storage.records import read_csv, write_text
from pipeline.workspace import paths

PAGE = "inspection.html"

STILL = ("attention", "movement", "losses")
"""The pictures that are drawn into files, too."""


@dataclass(frozen=True)
class Inside:
    """The section of the best prefix: sentences, charts and tables."""

    facts: dict[str, Any]
    conclusion: list[str]
    losses: dict[str, float]
    pictures: Pictures
    tokens: ShownTable
    layers: ShownTable
    notes: list[str]

    @property
    def stills(self) -> dict[str, str]:
        """The titles of the pictures that are in files as well, by their files."""
        return {
            f"inside_{name}.png": title
            for name, (title, _) in self.pictures.items()
            if name in STILL
        }


@dataclass(frozen=True)
class StartWords:
    """A start of the sweep, and the words that its virtual tokens came from, in their order."""

    initialization: str
    length: int
    seed: int | None
    origin: str
    words: list[str]


def inside_of(best: str) -> Inside | None:
    """What the stage `inspect` found in the best prefix; None where it looked into no such one."""
    if not paths.BEST_INSPECTION.exists():
        return None
    found = read_found(paths.BEST_INSPECTION)
    if found.facts["variant"] != best:
        return None
    return Inside(
        found.facts,
        keys_and_values(found),
        sentences(found),
        pictures_inside(found),
        _shown(by_token(found.tables)),
        _shown(by_layer(found.tables)),
        found.notes,
    )


def stills_inside(best: str) -> dict[str, Chart]:
    """The pictures for the Markdown page, by their files; the tables there say the rest."""
    inside = inside_of(best)
    if inside is None:
        return {}
    charts = dict(inside.pictures.values())
    return {file: charts[title] for file, title in inside.stills.items()}


def write_pictures(found: Found, folder: Path, dpi: int) -> None:
    """Write every picture as PNG, and all of them to explore as `inspection.html`.

    The page holds what draws them, and fetches nothing.
    """
    pictures = pictures_inside(found)
    for file, (_, chart) in pictures.items():
        save(chart, folder / f"{file}.png", dpi)
    if not pictures:
        return
    embedding = Embedding()
    facts = {
        "facts": found.facts,
        "conclusion": keys_and_values(found),
        "embedding": embedding,
        "pictures": [embedding.add(chart, title) for title, chart in pictures.values()],
        "notes": found.notes,
    }
    write_text(folder / PAGE, render("inspected.html.jinja", facts, escaped=True))


def keys_and_values(found: Found) -> list[str]:
    """How far keys and values moved, and what either is worth, each in a sentence."""
    said = []
    if "movement" in found.tables:
        layers = by_layer(found.tables)
        moved = {
            name: layers[column].median()
            for name, column in MOVED.items()
            if column in layers and layers[column].notna().any()
        }
        ways = [f"{name} by {share:.0%}" for name, share in moved.items()]
        if ways:
            said.append(
                f"In the median layer training moved {_listed(ways)} of their start's norm."
            )
    measured = losses(found.tables)
    if "training" not in measured:
        return said
    kinds = [name for name in MOVED if f"trained {name}" in measured]
    without = {name: measured[f"trained {name}"] for name in kinds}
    beside = [
        f"with the start's {name} beside the trained "
        f"{_listed([other for other in kinds if other != name])} {loss:.3f}"
        for name, loss in without.items()
    ]
    wholes = [f"with the start {measured['training']:.3f}"]
    wholes.append(f"without a prefix {measured['prefix']:.3f}")
    said.append(f"The loss is {measured['nothing']:.3f}; {', '.join([*beside, *wholes])}.")
    gained = measured["training"] - measured["nothing"]
    if gained > 0 and kinds == ["keys", "values"]:
        kept = {name: (measured["training"] - loss) / gained for name, loss in without.items()}
        said.append(
            f"The trained values alone keep {kept['keys']:.0%} of what training gained, the "
            f"trained keys alone {kept['values']:.0%}."
        )
    return said


def _listed(names: list[str]) -> str:
    """Names as a sentence lists them."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def start_words() -> list[StartWords]:
    """Every start of the sweep, as the stage `inspect` listed them; none before it ran."""
    if not paths.STARTS.exists():
        return []
    table = read_csv(paths.STARTS, texts=("initialization", "origin", "word"))
    found = []
    keys = ["initialization", "length", "seed", "origin"]
    for _, rows in table.groupby(keys, dropna=False, sort=False):
        start = rows.to_dict("records")[0]
        words = [visible(str(word)) for word in rows["word"] if word == word]
        name, length, seed, origin = (start[key] for key in keys)
        seed = None if pd.isna(seed) else int(seed)
        found.append(StartWords(str(name), int(length), seed, str(origin), words))
    return found


def _shown(table: pd.DataFrame) -> ShownTable:
    headers = cells(table)
    rows = zip(*headers.values(), strict=True)
    return ShownTable(list(headers), [list(row) for row in rows], "")
