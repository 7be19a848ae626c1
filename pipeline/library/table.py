"""The table of a library's losses, a row a document and round of training, and their means."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from tabulate import tabulate

MEAN = "mean"
_LOSSES = ("nothing", "own", "another's", "together", "highest together")
_WITHOUT_EACH = ("document", "trained", "questions", "number", *_LOSSES, "together / own")


def means(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each round: the mean over documents, each weighing the same."""
    found = []
    for trained in dict.fromkeys(row["trained"] for row in rows):
        own = [row for row in rows if row["trained"] == trained]
        losses = {key: mean(row[key] for row in own) for key in _LOSSES}
        number = sum(row["number"] for row in own)
        splits = "/".join(dict.fromkeys(row["questions"] for row in own))
        ratio = losses["together"] / losses["own"]
        found.append(
            {
                **{"document": MEAN, "trained": trained, "questions": splits, "number": number},
                **losses,
                "together / own": ratio,
            }
        )
    return found


def as_markdown(rows: Sequence[Mapping[str, Any]], count: int) -> str:
    """The table, with a sentence that says what its columns are."""
    shown = [{key: row[key] for key in _WITHOUT_EACH} for row in [*rows, *means(rows)]]
    table = tabulate(shown, headers="keys", floatfmt=".3f", tablefmt="github")
    return (
        "Loss of each document's questions (nats per target token) after nothing, its own prefix, "
        f"another's, and {count} prefixes together, its own among them.\n\n{table}\n"
    )
