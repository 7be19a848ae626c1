"""The visible text of an HTML page, in paragraphs."""

import re
from collections.abc import Iterator
from typing import Any

_UNSEEN = frozenset(
    ("head", "script", "style", "template", "noscript", "svg", "math", "iframe", "object")
)
# A paragraph of its own each.
_BLOCKS = frozenset(
    (
        *("address", "article", "aside", "blockquote", "body", "caption", "dd", "details", "div"),
        *("dialog", "dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "header"),
        *("h1", "h2", "h3", "h4", "h5", "h6", "hgroup", "hr", "main", "nav", "ol", "p", "pre"),
        *("section", "summary", "table", "ul"),
    )
)
_LINES = frozenset(("br", "li", "tr"))
_CELLS = frozenset(("td", "th"))
_PARAGRAPH, _LINE, _CELL = "\n\n", "\n", " | "
# Marks that are no text: a blank of preformatted text, and the beginning of a list's item.
_KEPT, _ITEM = "\0", "\1"


def html_text(page: str) -> str:
    """The text that a page shows: blocks as paragraphs, items and rows as lines, no tags.

    White space is folded as a browser folds it, except within `<pre>`. Cells of a row are set apart
    by ` | `, items of a list begin with `- `. A page without text gives "".
    """
    from lxml import etree, html

    # As bytes: a text may not declare an encoding, as XHTML does.
    parser = html.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True)
    try:
        root = html.document_fromstring(page.encode(), parser=parser)
    except etree.ParserError:  # there is nothing on the page
        return ""
    text = re.sub(" +", " ", "".join(_parts(root)))
    text = re.sub(" *\n *", "\n", text)
    text = re.sub(rf"{_ITEM}\s*", "- ", text)
    return re.sub("\n{3,}", _PARAGRAPH, text).replace(_KEPT, " ").strip()


def _parts(element: Any, keeps_space: bool = False) -> Iterator[str]:
    tag = element.tag
    if tag in _UNSEEN or not isinstance(tag, str):
        return
    keeps_space = keeps_space or tag == "pre"
    if tag in _BLOCKS:
        yield _PARAGRAPH
    elif tag in _LINES:
        yield _LINE + (_ITEM if tag == "li" else "")
    elif tag in _CELLS and element.getprevious() is not None:
        yield _CELL
    yield _shown(element.text, keeps_space)
    for child in element:
        yield from _parts(child, keeps_space)
        yield _shown(child.tail, keeps_space)
    if tag in _BLOCKS:
        yield _PARAGRAPH


def _shown(text: str | None, keeps_space: bool) -> str:
    if text is None:
        return ""
    return text.replace(" ", _KEPT) if keeps_space else re.sub(r"\s+", " ", text)
