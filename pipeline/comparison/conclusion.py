"""The comparison's outcome in plain sentences, each of which follows from the tables."""

from typing import Any

import pandas as pd

from pipeline.comparison.summary import ByName
from pipeline.comparison.tables import shown_bytes, sorted_by
from pipeline.config import Params
from pipeline.metrics.table import METRICS
from pipeline.statistics.per_example import Comparer, averaged

LEVEL = 0.05
"""Differences with a p value below it are called significant."""


def conclude(
    table: pd.DataFrame, seeds: pd.DataFrame, statistics: ByName, params: Params
) -> list[str]:
    """Who wins, by how much, whether that may be chance, and what it costs.

    A setting (length, initialisation, training size) is judged by the mean over its seeds:
    `seeds` is the table over seeds, `table` the one of every run, both sorted best first.
    """
    variants = seeds[seeds["kind"] == "variant"].to_dict("records")
    baselines = seeds[seeds["kind"] == "baseline"].to_dict("records")
    winner = variants[0]
    sentences = [_winner(winner, params)]
    if baselines:
        sentences.append(_against_baseline(winner, baselines[0], params))
    if len(variants) > 1:
        p = _p_between(winner, variants[1], table, statistics, params)
        sentences.append(_against_runner_up(winner, variants[1], p, params))
    sentences += _other_splits(winner, baselines, params)
    sentences.append(_cost(winner, baselines))
    sentences.append(_caution(winner, len(variants), params))
    return sentences


def _winner(winner: dict[Any, Any], params: Params) -> str:
    key, metric = params.report.sort_column, METRICS[params.report.sort_by]
    measured = f"{sorted_by(params)} of {metric.shown(winner[key])}"
    if winner["seeds"] > 1:
        spread = metric.shown(winner[f"{key}_std"])
        measured += f" (mean of {winner['seeds']} seeds, standard deviation {spread})"
    return f"The best prefix is {winner['name']}, with a {measured}."


def _against_baseline(winner: dict[Any, Any], best: dict[Any, Any], params: Params) -> str:
    key, metric = params.report.sort_column, METRICS[params.report.sort_by]
    difference = winner[key] - best[key]
    value, by = metric.shown(best[key]), metric.difference(abs(difference))
    p = winner.get(f"{key}_p_value")
    judged = _judged(p, params)
    if difference == 0:
        return f"The best baseline, {best['name']}, has the same {value}."
    if (difference < 0) == params.report.ascending:
        return f"It beats the best baseline, {best['name']} ({value}), by {by}; {judged}."
    return (
        f"The best baseline, {best['name']} ({value}), beats it by {by}; {judged}. On these data "
        "no prefix of this sweep is worth preferring by this metric."
    )


def _against_runner_up(
    winner: dict[Any, Any], second: dict[Any, Any], p: float, params: Params
) -> str:
    key, metric = params.report.sort_column, METRICS[params.report.sort_by]
    by = metric.difference(abs(winner[key] - second[key]))
    return (
        f"The next best setting is {second['name']} ({metric.shown(second[key])}), {by} behind; "
        f"{_judged(p, params)}."
    )


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
            pick = max if metric.higher_is_better else min
            best = pick(baselines, key=lambda row: float(row[column]))
            sentence += f", the best baseline there, {best['name']}, {metric.shown(best[column])}"
        sentences.append(f"{sentence}.")
    return sentences


def _cost(winner: dict[Any, Any], baselines: list[dict[Any, Any]]) -> str:
    said = (
        f"It keeps {shown_bytes(winner['stored_bytes'])} beside the frozen model "
        f"({int(winner['trainable_parameters']):,} trained numbers), and a query goes on from "
        f"{_context(winner)}"
    )
    if baselines and baselines[0]["length"]:
        said += f", where {baselines[0]['name']} takes {_context(baselines[0])}"
    return f"{said}."


def _context(row: dict[Any, Any]) -> str:
    return f"{row['length']} tokens ({shown_bytes(row['cache_bytes'])} of cache)"


def _caution(winner: dict[Any, Any], variants: int, params: Params) -> str:
    parts = [
        f"the winner of {variants} settings is chosen on the split it is measured on, and p values "
        "are not corrected for their number"
    ]
    if winner["seeds"] == 1:
        parts.append("with one seed, how much another seed would change is unknown")
    return "To bear in mind: " + "; ".join(parts) + "."


def _judged(p: float | None, params: Params) -> str:
    if p is None or p != p:
        return "whether that is chance was not tested"
    least = 1 / (params.report.resamples + 1)
    shown = f"p = {p:.3f}" if p > least * 1.001 else f"p ≤ {least:.4f}"
    verdict = "significant" if p < LEVEL else "which may well be chance: not significant"
    return f"{verdict} at {LEVEL:.0%} ({shown}, paired permutation test)"


def _p_between(
    one: dict[Any, Any],
    other: dict[Any, Any],
    table: pd.DataFrame,
    statistics: ByName,
    params: Params,
) -> float:
    keys = (params.report.split, params.report.sort_by)
    pooled = [
        averaged({keys: statistics[name][keys]} for name in _members(row["name"], table))
        for row in (one, other)
    ]
    comparer = Comparer(params.report.resamples, params.report.seed)
    return comparer.p_values(*pooled)[f"{params.report.sort_column}_p_value"]


def _members(setting: str, table: pd.DataFrame) -> list[str]:
    """The rows of the summary that a row of the table over seeds stands for."""
    unseeded = table["name"].str.replace(r"-seed\d+", "", regex=True)
    return list(table.loc[unseeded == setting, "name"])
