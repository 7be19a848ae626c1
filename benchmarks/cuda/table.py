"""What was found as Markdown tables."""

from typing import Any

_APART = ("check", "seconds")


def table(card: str, rows: list[dict[str, Any]]) -> str:
    """One table for each sort of check, under the card's name; what failed or was left out last."""
    told = [row for row in rows if not {"error", "skipped"} & row.keys()]
    parts = [f"# On {card}\n"]
    for sort in dict.fromkeys(_sort(row) for row in told):
        parts.append(_of([row for row in told if _sort(row) == sort]))
    for what, key in (("Failed", "error"), ("Left out", "skipped")):
        if lines := [f"- {row['check']}: {row[key]}" for row in rows if key in row]:
            parts.append(f"{what}:\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def _sort(row: dict[str, Any]) -> str:
    return str(row["check"]).split(",")[0]


def _of(rows: list[dict[str, Any]]) -> str:
    keys = list(dict.fromkeys(key for row in rows for key in row if key not in _APART))
    lines = [["check", *keys], ["---"] * (len(keys) + 1)]
    lines += [[row["check"], *(_shown(row.get(key)) for key in keys)] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value)
