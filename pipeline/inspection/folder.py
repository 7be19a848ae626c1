"""What was found in a prefix, on disk: a CSV file a table, and `facts.json`."""

from pathlib import Path

from pipeline.inspection.found import Found
from pipeline.storage.records import read_csv, read_json, write_csv, write_json

_FACTS = "facts.json"


def write_found(found: Found, folder: Path) -> None:
    """Write every table into a folder that is there."""
    for name, table in found.tables.items():
        # Six figures: the last ones of a double are rounding.
        write_csv(folder / f"{name}.csv", table.map(_rounded))
    write_json(folder / _FACTS, {**found.facts, "notes": found.notes, "tables": [*found.tables]})


def read_found(folder: Path) -> Found:
    """What `write_found` wrote. Raises PipelineError where it is not there."""
    facts = read_json(folder / _FACTS)
    notes, names = facts.pop("notes"), facts.pop("tables")
    tables = {name: read_csv(folder / f"{name}.csv", texts=("word", "start")) for name in names}
    if "ablation" in tables:
        # Empty cells beside whole numbers would make them fractions.
        tables["ablation"] = tables["ablation"].astype({"first": "Int64", "last": "Int64"})
    return Found(facts, tables, notes)


def _rounded(value: object) -> object:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def is_of_found(folder: Path) -> bool:
    """Whether a folder is empty, or one that `write_found` wrote into."""
    return folder.is_dir() and ((folder / _FACTS).exists() or not any(folder.iterdir()))
