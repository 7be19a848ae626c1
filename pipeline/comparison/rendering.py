"""The templates of the pages, and what they may call."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import FileSystemLoader, StrictUndefined, TemplateError
from jinja2.sandbox import SandboxedEnvironment
from markupsafe import Markup

from pipeline.comparison.plots.embedding import digest, drawing_script
from pipeline.comparison.tables import ShownTable
from pipeline.data.spread import spread
from pipeline.errors import PipelineError

_TEMPLATES = Path(__file__).parent / "templates"


def render(name: str, facts: Mapping[str, Any], escaped: bool) -> str:
    """A template of this folder with these facts, escaped as HTML or not.

    Raises PipelineError for a template that lacks a fact.
    """
    environment = SandboxedEnvironment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=escaped,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = _cell
    environment.globals |= {"source": _source, "drawing_script": drawing_script, "digest": digest}
    environment.filters["breakable"] = _breakable
    environment.filters["evenly"] = _evenly
    environment.filters["markdown_table"] = ShownTable.markdown
    try:
        return environment.get_template(name).render(facts)
    except TemplateError as error:
        raise PipelineError(f"{_TEMPLATES / name}: {error}") from error


def _breakable(name: str) -> Markup:
    """A name that a narrow column may break behind any of its words."""
    return Markup("_<wbr>").join(name.split("_"))


def _evenly(examples: Sequence[Any], count: int) -> list[Any]:
    """So many of them, the first among them."""
    return [examples[place] for place in spread(len(examples), count)]


def _cell(text: str) -> str:
    """A text inside a cell of a Markdown table."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
    return "<br>".join(escaped.splitlines())


def _source(name: str) -> Markup:
    """A script or style sheet of the templates, as it is."""
    return Markup((_TEMPLATES / name).read_text("utf-8"))
