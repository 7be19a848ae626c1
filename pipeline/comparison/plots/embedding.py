"""Charts inside a page, with what draws them: nothing is fetched."""

import base64
import hashlib
import json
from dataclasses import dataclass
from functools import cache
from typing import Any

import vl_convert
from markupsafe import Markup

from pipeline.comparison.plots.style import Chart

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Embedded:
    """A chart for a page: `spec` is Vega-Lite as JSON that is safe inside a script element."""

    spec: Markup
    title: str


class Embedding:
    """The charts of one page: `add` each, and put `data` once behind the last.

    Rows that several charts show are on the page once.
    """

    def __init__(self) -> None:
        self._data: dict[str, dict[str, Any]] = {}

    def add(self, chart: Chart, title: str) -> Embedded:
        """A chart for the macro `chart` of the templates; `title` is what it shows, in words."""
        # Altair checked each part when it was made; the whole once more takes as long as that.
        spec = chart.to_dict(validate=False)
        for name, rows in spec.pop("datasets", {}).items():
            self._data[name] = columns_of(rows)
        # The page heads it.
        spec.pop("title", None)
        return Embedded(as_json(spec), title)

    @property
    def data(self) -> Markup:
        """The rows of all charts so far, by name, as JSON that is safe inside a script element."""
        return as_json(self._data)


def columns_of(rows: Rows) -> dict[str, Any]:
    """Rows as columns, a text that comes again as its number: a tenth of the size.

    `{"columns": {field: [values]}, "texts": {field: [distinct texts]}}`; a value of a field in
    `texts` is the index of its text. What a row lacks is null.
    """
    fields = list(dict.fromkeys(field for row in rows for field in row))
    columns: dict[str, list[Any]] = {f: [row.get(f) for row in rows] for f in fields}
    texts: dict[str, list[Any]] = {}
    for field, values in columns.items():
        if values and all(isinstance(value, str) for value in values):
            texts[field] = list(dict.fromkeys(values))
            places = {text: place for place, text in enumerate(texts[field])}
            columns[field] = [places[value] for value in values]
    return {"columns": columns, "texts": texts}


def as_json(value: Any) -> Markup:
    """JSON that ends no script element and opens no comment, whatever the texts in it are."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


@cache
def drawing_script() -> Markup:
    """Vega, Vega-Lite and Vega-Embed in one script, about 0.9 MB."""
    return Markup(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


def digest(script: str) -> str:
    """What a page's policy calls a script that may run (Content Security Policy, level 3)."""
    found = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"'sha256-{found}'"
