"""The results of a study as a table: a row for each setting, its seeds averaged."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

import pandas as pd

from benchmarks.quality.results import Line, line_of
from benchmarks.quality.study import Study
from benchmarks.quality.trials import Trial

LOSS = "validation loss"
_SPLITS = {"test": "test", "test_unseen": "unseen"}
_METRICS = {"loss": "loss", "bleu": "BLEU"}
MEASURED = (
    *(LOSS, *(f"{split} {_METRICS[m]}" for m in _METRICS for split in _SPLITS.values())),
    "ms a step",
)
_DIGITS = {"loss": 3, "BLEU": 1, "step": 1}


def heading(key: str) -> str:
    """A key of a trial as a table's column is called."""
    return key.removesuffix(".type").rpartition(".")[2].replace("_", " ")


def frame(study: Study, trials: Sequence[Trial], lines: Sequence[Line]) -> pd.DataFrame:
    """A row for each setting of a study that has results.

    Columns: the study's rows by their headings, `seeds`, `parameters`, and for each of `MEASURED`
    its mean over seeds and, as `<name> ±`, their standard deviation. Where the study chooses by
    validation the chosen settings alone.
    """
    found: dict[tuple[Any, ...], list[Line]] = {}
    for trial in trials:
        line = line_of(trial.identity, lines)
        if line is not None:
            setting = tuple(_shown(trial.value(key)) for key in study.rows)
            found.setdefault(setting, []).append(line)
    columns = [heading(key) for key in study.rows]
    rows = [
        {**dict(zip(columns, setting, strict=True)), **_averaged(own)}
        for setting, own in found.items()
    ]
    table = pd.DataFrame(rows, columns=None if rows else [*columns, "seeds"])
    if study.chosen_by_validation is not None and not table.empty:
        by_seed = [{line["trial"]["seed"]: _loss(line) for line in own} for own in found.values()]
        others = [c for c in columns if c != heading(study.chosen_by_validation)]
        table = _chosen(table, by_seed, others)
    return table


def markdown(table: pd.DataFrame) -> str:
    """The table as Markdown, each measurement with its deviation."""
    shown = table[[c for c in table.columns if not c.endswith("±")]].astype(object)
    for name in MEASURED:
        if name in shown:
            shown[name] = list(_with_deviation(table, name))
    shown = shown.map(lambda value: f"{value:g}" if isinstance(value, float) else value)
    return as_markdown(shown.replace("nan", "").fillna(""))


def as_markdown(shown: pd.DataFrame) -> str:
    """A table of what is shown as it is."""
    return shown.to_markdown(index=False, disable_numparse=True, tablefmt="github")


def failures(trials: Sequence[Trial], lines: Sequence[Line]) -> Iterator[str]:
    """A sentence for each trial whose last line is an error."""
    last = {str(line["trial"]): line for line in lines}
    for trial in trials:
        line = last.get(str(trial.identity), {})
        if "error" in line:
            yield f"{trial.identity}: {line['error']}"


def _shown(value: Any) -> Any:
    """A value that a table can hold and tell from others."""
    if isinstance(value, list):
        are_consecutive = len(value) > 2 and value[-1] - value[0] == len(value) - 1
        return f"{value[0]} to {value[-1]}" if are_consecutive else ", ".join(map(str, value))
    return value if isinstance(value, int | float | str) or value is None else str(value)


def _averaged(lines: Sequence[Line]) -> dict[str, Any]:
    each = [_measured(line) for line in lines]
    found: dict[str, Any] = {"seeds": len(lines), "parameters": lines[0]["parameters"]}
    for name in MEASURED:
        values = [own[name] for own in each if name in own]
        if values:
            found[name] = mean(values)
            found[f"{name} ±"] = stdev(values) if len(values) > 1 else float("nan")
    return found


def _measured(line: Line) -> dict[str, float]:
    """What a line has of `MEASURED`, and more."""
    found = {LOSS: _loss(line)}
    # Of processes beside each other it says how many there were.
    if line["step_seconds"] is not None and line["trial"].get("alone"):
        found["ms a step"] = 1000 * line["step_seconds"]
    scores = {
        f"{_SPLITS[split]} {_METRICS[metric]}": score
        for split, own in line["scores"].items()
        for metric, score in own.items()
        if metric in _METRICS
    }
    return found | scores


def _loss(line: Line) -> float:
    """The lowest on validation."""
    return float(dict(line["validation"])[line["best_step"]])


def _chosen(
    table: pd.DataFrame, by_seed: Sequence[Mapping[int, float]], others: Sequence[str]
) -> pd.DataFrame:
    """Of the rows that are alike in `others` the one with the lowest loss on validation.

    It is that of the seeds that all of them have, where there are such: no row is chosen for its
    seeds. `by_seed` has the losses of each row.
    """
    chosen = []
    for _, group in table.groupby(list(others), dropna=False, sort=False):
        shared = set.intersection(*(set(by_seed[row]) for row in group.index))
        losses = {
            row: mean(loss for seed, loss in by_seed[row].items() if seed in shared or not shared)
            for row in group.index
        }
        chosen.append(min(losses, key=losses.__getitem__))
    return table.loc[chosen].reset_index(drop=True)


def rounded(name: str, value: float) -> str:
    """A value of one of `MEASURED`, with as many digits as it is shown with."""
    return f"{value:.{_DIGITS[name.rpartition(' ')[2]]}f}"


def _with_deviation(table: pd.DataFrame, name: str) -> Iterator[str]:
    for value, deviation in zip(table[name], table[f"{name} ±"], strict=True):
        if value != value:
            yield ""
        else:
            spread = "" if deviation != deviation else f" ± {rounded(name, deviation)}"
            yield f"{rounded(name, value)}{spread}"
