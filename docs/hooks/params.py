"""Every key of params.yaml, from its schema and its comments, as docs/reference/params.md."""

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from pipeline.config import Params

PAGE = "docs/reference/params.md"
_PLACE = re.compile(r"<!-- keys -->.*<!-- /keys -->", re.DOTALL)
_KINDS = ("source", "type", "library")
"""The keys by which one of several kinds of a section is told from the others."""
_WORDS = {"integer": "a whole number", "number": "a number", "string": "a text", "null": "null"}

Schema = dict[str, Any]


class _WithDefaults(GenerateJsonSchema):
    """Says the defaults that are made anew each time, too: lists and mappings."""

    def get_default_value(self, schema: core_schema.WithDefaultSchema) -> Any:
        if "default_factory" in schema:
            return schema["default_factory"]()  # type: ignore[call-arg]
        return super().get_default_value(schema)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the sections where the page leaves room for them."""
    if page.file.src_uri != PAGE:
        return markdown
    written = (Path(config.config_file_path).parent / "params.yaml").read_text(encoding="utf-8")
    schema = Params.model_json_schema(schema_generator=_WithDefaults)
    text = "\n\n".join(
        f"## {name}\n\n```yaml\n{_section(written, name)}\n```\n\n" + _tables(schema, name)
        for name in schema["properties"]
    )
    return _PLACE.sub(lambda _: text, markdown)


def _section(written: str, name: str) -> str:
    """A section as params.yaml has it, with the comment above it."""
    lines = written.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith(f"{name}:"))
    last = first + 1
    while last < len(lines) and (not lines[last] or lines[last].startswith(" ")):
        last += 1
    while lines[first - 1].startswith("#"):
        first -= 1
    return "\n".join(lines[first:last]).rstrip()


def _tables(schema: Schema, name: str) -> str:
    """A table of keys for a section, or one for each of its kinds, and for those of its keys."""
    known = schema["$defs"]
    section = _resolved(schema["properties"][name], known)
    if "properties" not in section and (named := _values(section)):
        section = _resolved(named, known)
    kinds = _sections(section, known)
    if kinds == [section]:
        tables = [_table(section, known)]
    else:
        tables = [_titled(kind, name, known) for kind in kinds]
    for kind in kinds:
        for key, asked, _ in _keys(kind, known):
            tables += [_titled(one, f"{name}.{key}", known) for one in _sections(asked, known)]
    return "\n\n".join(dict.fromkeys(tables))


def _sections(asked: Schema, known: Schema) -> list[Schema]:
    """The kinds of section that stand there, or in a list there; none where it is a plain value."""
    asked = _resolved(asked, known)
    if "properties" in asked:
        return [asked]
    if "items" in asked:
        return _sections(asked["items"], known)
    several = asked.get("oneOf") or asked.get("anyOf") or []
    return [section for one in several for section in _sections(one, known)]


def _titled(kind: Schema, name: str, known: Schema) -> str:
    return f"### {_title(kind, name)}\n\n{_table(kind, known)}"


def _title(kind: Schema, name: str) -> str:
    for key in _KINDS:
        if "const" in kind["properties"].get(key, {}):
            return f"{name}: {key} {kind['properties'][key]['const']}"
    # Of the items of a list.
    return name


def _table(section: Schema, known: Schema) -> str:
    rows = ["| key | takes | default |", "| --- | --- | --- |"]
    for key, asked, required in _keys(section, known):
        default = "" if required else f"`{json.dumps(asked['default'])}`"
        takes = _words(asked, known)
        rows.append(f"| `{key}` | {takes} | {'has to be given' if required else default} |")
    return "\n".join(rows)


def _keys(section: Schema, known: Schema, before: str = "") -> list[tuple[str, Schema, bool]]:
    """The keys of a section, those of mappings within it by their paths."""
    found = []
    for key, asked in section.get("properties", {}).items():
        within = _resolved(asked, known)
        if "properties" in within:
            found += _keys(within, known, f"{before}{key}.")
        elif "properties" in (named := _resolved(_values(within), known)):
            found += _keys(named, known, f"{before}{key}.NAME.")
        else:
            found.append((before + key, asked, key in section.get("required", [])))
    return found


def _resolved(asked: Schema, known: Schema) -> Schema:
    if "$ref" not in asked:
        return asked
    return _resolved(known[asked["$ref"].rsplit("/", 1)[-1]], known)


def _values(mapping: Schema) -> Schema:
    """What the values of a mapping with names of the user's choice are."""
    named = [*mapping.get("patternProperties", {}).values(), mapping.get("additionalProperties")]
    return next((asked for asked in named if isinstance(asked, dict)), {})


def _words(asked: Schema, known: Schema) -> str:
    """What a key takes, in words."""
    asked = _resolved(asked, known)
    if "const" in asked:
        return f"`{asked['const']}`"
    if "enum" in asked:
        return " or ".join(f"`{item}`" for item in asked["enum"])
    if several := asked.get("anyOf") or asked.get("oneOf"):
        return ", or ".join(dict.fromkeys(_words(one, known) for one in several))
    kind = asked.get("type")
    if kind == "array":
        return f"a list, each item {_words(asked.get('items', {}), known)}"
    if kind == "object":
        of = _values(asked)
        return f"a mapping, each value {_words(of, known)}" if of else "a mapping"
    if kind == "boolean":
        return "true or false"
    return _WORDS.get(kind or "", "anything") + _bounds(asked)


def _bounds(asked: Schema) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {asked[key]:g}" for key, sign in signs.items() if key in asked]
    if "pattern" in asked:
        # What Markdown would take for its own, the table's bar first of all, is written by number.
        pattern = re.sub(r"[^\w ]|_", lambda sign: f"&#{ord(sign[0])};", asked["pattern"])
        bounds.append(f"like <code>{pattern}</code>")
    return f" {', '.join(bounds)}" if bounds else ""
