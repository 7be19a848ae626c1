"""The documents of a folder, listed in params.yaml as those of a library."""

import re
from pathlib import Path

from pipeline.config.compose import sections_of, with_values
from pipeline.config.load import load_params, read_yaml
from pipeline.errors import PipelineError
from pipeline.storage.records import write_text
from pipeline.workspace.paths import PARAMS

# What DVC needs beside the documents, and what a person would want to see there.
_FIRST = """library:
  documents: {}
  held_out: requirements.lock     # a folder with your own questions, <name>.jsonl, for the test
  self_study: {}                  # as in self_study
  prefix: {length: 64}
  train: {epochs: 3}              # as in train
  distractors: {count: 1, probability: 0.5}
  together: {pairs: {count: 2}}
"""


def list_documents(folder: Path, held_out: Path | None) -> dict[str, str]:
    """Write the files of a folder into `library.documents`; returns all that are listed then.

    What was listed of this folder before is replaced, all else stays. Of a params.yaml without a
    library the other keys get values to begin with.

    Raises PipelineError for a folder without files, for two of one name, and where params.yaml
    would not be valid; then it is as before.
    """
    before = PARAMS.read_text(encoding="utf-8")
    known = dict((read_yaml(PARAMS).get("library") or {}).get("documents") or {})
    kept = {name: path for name, path in known.items() if Path(path).parent != folder}
    documents = {**kept, **_named(folder, kept)}
    changes: dict[str, object] = {"documents": documents}
    if held_out is not None:
        changes["held_out"] = held_out.as_posix()
    sections = sections_of(before)
    comment, body = sections.get("library", ("\n", _FIRST))
    # Emptied first: with what is there new values would be joined.
    emptied = with_values(body if known else _FIRST, {"library": {"documents": None}})
    written = with_values(emptied, {"library": changes})
    parts = {**sections, "library": (comment, written)}
    write_text(PARAMS, "".join(text for pair in parts.values() for text in pair))
    try:
        load_params()
    except BaseException:
        write_text(PARAMS, before)
        raise
    return documents


def _named(folder: Path, taken: dict[str, str]) -> dict[str, str]:
    """The files of a folder by the names that stages and prefixes get."""
    if not folder.is_dir():
        raise PipelineError(f"{folder}: is no folder; name one that holds a text of each document")
    found: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        name = re.sub(r"\W+", "_", path.stem.lower(), flags=re.ASCII).strip("_")
        if not name[:1].isalpha():
            name = f"document_{name}"
        if name in found or name in taken:
            other = {**taken, **found}[name]
            raise PipelineError(f"{path}: has the name of {other}, {name}; rename one of them")
        found[name] = path.as_posix()
    if not found:
        raise PipelineError(f"{folder}: holds no documents; put a text of each there")
    return found
