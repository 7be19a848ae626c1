"""The comparison's outcome in plain sentences, each of which follows from the tables."""

from typing import Any

import pandas as pd

from pipeline.comparison.choice import setting_of
from pipeline.comparison.summary import ByName
from pipeline.comparison.tables import judged_by, shown_bytes, shown_interval, sorted_by
from pipeline.config import Params
from pipeline.metrics.table import METRICS
from pipeline.statistics.per_example import Comparer

LEVEL = 0.05
"""Differences with a p value below it are called significant."""

FEW = 100
"""Validation examples below which the page says that they are few to choose by."""

_NOT_COMPARED = "cannot be compared with it: one of the two is not a number"


def conclude(
    table: pd.DataFrame,
    seeds: pd.DataFrame,
    statistics: ByName,
    params: Params,
    validation_examples: int,
) -> list[str]:
    """Who wins, by how much, whether that may be chance, and what it costs.

    A setting (length, initialisation, training size, rate) is judged by the mean over its seeds:
    `seeds` is the table over seeds, `table` the one of every run, both sorted best first on
    validation.
    """
    variants = seeds[seeds["kind"] == "variant"].to_dict("records")
    baselines = seeds[seeds["kind"] == "baseline"].to_dict("records")
    winner, others = variants[0], variants[1:]
    sentences = [_winner(winner, params), _chosen(winner, params, validation_examples)]
    if baselines:
        sentences.append(_against_baseline(winner, baselines[0], len(variants), params))
    if others:
        p_values = _p_values(winner, others, table, statistics, params)
        sentences.append(_against_others(winner, others, p_values, params))
    sentences += _other_splits(winner, baselines, params)
    sentences.append(_cost(winner, baselines))
    sentences += _caution(winner, len(variants), params, validation_examples)
    return sentences


def who_won(table: pd.DataFrame, params: Params) -> str:
    """The outcome in a few words: the best prefix and the best baseline, each with its score."""
    scores = table.set_index("name")[params.report.judged_by].map(
        METRICS[params.report.sort_by].shown
    )
    winner = table[table["is_best"]].to_dict("records")[0]
    name, baseline = winner["name"], winner["compared_with"]
    said = f"Best prefix: `{name}`, {judged_by(params)} {scores[name]}"
    # Empty where there is no baseline.
    if isinstance(baseline, str):
        said += f"; best baseline: `{baseline}`, {scores[baseline]}"
    return f"{said}."


def _winner(winner: dict[Any, Any], params: Params) -> str:
    key, metric = params.report.judged_by, METRICS[params.report.sort_by]
    interval = shown_interval(winner, key, metric.name)
    measured = f"{judged_by(params)} of {metric.shown(winner[key])}{interval}"
    if winner["seeds"] > 1:
        spread = metric.shown(winner[f"{key}_std"])
        measured += f" (mean of {winner['seeds']} seeds, standard deviation {spread})"
    return f"The best prefix is {winner['name']}, with a {measured}."


def _chosen(winner: dict[Any, Any], params: Params, examples: int) -> str:
    score = METRICS[params.report.sort_by].shown(winner[params.report.chosen_by])
    counted = "1 example" if examples == 1 else f"{examples} examples"
    return f"It is chosen by its {sorted_by(params)}, {score} on {counted}."


def _against_baseline(
    winner: dict[Any, Any], best: dict[Any, Any], compared: int, params: Params
) -> str:
    key, metric = params.report.judged_by, METRICS[params.report.sort_by]
    difference = winner[key] - best[key]
    value, by = metric.shown(best[key]), metric.difference(abs(difference))
    judged = _judged(winner.get(f"{key}_p_value"), compared, params)
    if difference != difference:
        return f"The best baseline, {best['name']} ({value}), {_NOT_COMPARED}."
    if difference == 0:
        return f"The best baseline, {best['name']}, has the same {value}."
    if (difference < 0) == params.report.ascending:
        return f"It beats the best baseline, {best['name']} ({value}), by {by}; {judged}."
    return (
        f"The best baseline, {best['name']} ({value}), beats it by {by}; {judged}. On these data "
        "no prefix of this sweep is worth preferring by this metric."
    )


def _against_others(
    winner: dict[Any, Any],
    others: list[dict[Any, Any]],
    p_values: dict[str, float],
    params: Params,
) -> str:
    key, metric = params.report.judged_by, METRICS[params.report.sort_by]
    second = others[0]
    lead = (second[key] - winner[key]) * (1 if params.report.ascending else -1)
    place = f"{metric.difference(abs(lead))} {'behind' if lead >= 0 else 'ahead'}"
    judged = f"{place}; {_judged(p_values[second['name']], len(others), params)}"
    sentence = (
        f"The next best setting on validation is {second['name']} ({metric.shown(second[key])}), "
        f"{judged if lead == lead else _NOT_COMPARED}."
    )
    if len(others) == 1:
        return sentence
    behind = sum(
        p_values[row["name"]] < LEVEL and (row[key] > winner[key]) == params.report.ascending
        for row in others
    )
    return f"{sentence} Of the {len(others)} other settings {behind} are significantly behind."


def _other_splits(
    winner: dict[Any, Any], baselines: list[dict[Any, Any]], params: Params
) -> list[str]:
    metric = METRICS[params.report.sort_by]
    sentences = []
    for split in params.evaluate.splits:
        if split == params.report.split:
            continue
        column = f"{split}_{metric.name}"
        sentence = f"On {split} it has {metric.shown(winner[column])}"
        if baselines:
            best = baselines[0]
            sentence += f", the best baseline, {best['name']}, {metric.shown(best[column])}"
        sentences.append(f"{sentence}.")
    return sentences


def _cost(winner: dict[Any, Any], baselines: list[dict[Any, Any]]) -> str:
    said = (
        f"It keeps {shown_bytes(winner['stored_bytes'])} beside the frozen model "
        f"({int(winner['trainable_parameters']):,} trained numbers), and a query goes on from "
        f"{_context(winner)}"
    )
    texts = [row for row in baselines if row["length"] > winner["length"]]
    if texts:
        saved = texts[0]["length"] - winner["length"]
        said += f", where {texts[0]['name']} takes {_context(texts[0])}: {saved:,} tokens saved"
        said += " with every query"
    return f"{said}."


def _context(row: dict[Any, Any]) -> str:
    return f"{row['length']:,} tokens ({shown_bytes(row['cache_bytes'])} of cache)"


def _caution(
    winner: dict[Any, Any], variants: int, params: Params, validation_examples: int
) -> list[str]:
    parts = []
    if params.report.split == "validation":
        parts.append(
            "the winner is chosen on the split that it is measured on, so that its score and "
            "interval there flatter it; `report.split: test` tells how good it is"
        )
    if winner["seeds"] == 1:
        parts.append(
            "with one seed, how much another seed would change is unknown, and p values are of "
            "these very trainings"
        )
    if variants > 1 and validation_examples < FEW:
        few = "examples are" if validation_examples != 1 else "example is"
        parts.append(
            f"{validation_examples} validation {few} few to choose by: another setting that is "
            "close may be as good"
        )
    return [f"To bear in mind: {'; '.join(parts)}."] if parts else []


def _judged(p: float | None, compared: int, params: Params) -> str:
    if p is None or p != p:
        return "whether that is chance was not tested"
    least = 1 / (params.report.resamples + 1)
    shown = f"p = {p:.3f}" if p > least * 1.001 else f"p ≤ {least:.4f}"
    verdict = "significant" if p < LEVEL else "which may well be chance: not significant"
    corrected = f", corrected for {compared} comparisons" if compared > 1 else ""
    return f"{verdict} at {LEVEL:.0%} ({shown}{corrected})"


def _p_values(
    winner: dict[Any, Any],
    others: list[dict[Any, Any]],
    table: pd.DataFrame,
    statistics: ByName,
    params: Params,
) -> dict[str, float]:
    """Of the winner's difference from every other setting, corrected for their number."""
    keys = (params.report.split, params.report.sort_by)
    settings = table["name"].map(setting_of)

    def seeds(row: dict[Any, Any]) -> list[Any]:
        members = sorted(table.loc[settings == row["name"], "name"])
        return [{keys: statistics[name][keys]} for name in members]

    comparer = Comparer(params.report.resamples, params.report.seed)
    found = comparer.p_values({row["name"]: seeds(row) for row in others}, seeds(winner))
    return {name: values[f"{params.report.judged_by}_p_value"] for name, values in found.items()}
