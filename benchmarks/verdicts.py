"""How often the report's verdicts are wrong, where the truth is known.

Scores of examples are drawn and not computed: of variants that equal their baseline, and of methods
that differ by so much. The report's own tables judge them. Beside each figure stands what the same
draws give when the winner is chosen on test, p values count one comparison and no seed, and
intervals are percentiles of a bootstrap.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ruamel.yaml import YAML
from tabulate import tabulate

from pipeline.comparison.over_seeds import over_seeds
from pipeline.comparison.summary import ByName, judged
from pipeline.config import Params
from pipeline.metrics.table import METRICS
from pipeline.statistics.per_example import Statistics
from pipeline.statistics.resampling import Resampling
from pipeline.sweep.grid import all_rows
from pipeline.sweep.variants import Variant

LEVEL = 0.05
VALIDATION = 32
ROOT = Path(__file__).resolve().parent.parent
Rates = dict[str, float]
Row = dict[str, Any]


@dataclass(frozen=True)
class World:
    """What is compared, and what is true of it.

    `variants` settings with `seeds` trainings each stand against one baseline, which is trained
    alike when there are several seeds. An example is answered rightly at a rate of its own, of mean
    `rate`; its loss is drawn alike for all. A training moves the rate by a normal draw of standard
    deviation `spread`, and every variant by `better`.
    """

    variants: int = 1
    seeds: int = 1
    examples: int = 80
    rate: float = 0.5
    spread: float = 0.0
    better: float = 0.0
    resamples: int = 1000

    def params(self, sort_by: str) -> Params:
        """Params that list all this."""
        raw: dict[str, Any] = YAML(typ="safe").load((ROOT / "params.yaml").read_text("utf-8"))
        raw["sweep"] |= {"lengths": list(range(1, self.variants + 1)), "in_context": []}
        raw["sweep"] |= {"initializations": ["random"], "seeds": list(range(self.seeds))}
        raw["evaluate"] |= {"splits": ["test"], "metrics": ["exact_match"]}
        raw["report"] |= {"sort_by": sort_by, "resamples": self.resamples}
        several = self.seeds > 1
        raw["trained_baselines"] = {"lora": {"type": "lora"}} if several else {}
        single = {"no_prefix": {"type": "no_prefix", "path": "data/model/config.json"}}
        raw["baselines"] = {} if several else single
        return Params.model_validate(raw)

    def draw(self, params: Params, draw: np.random.Generator) -> tuple[list[Row], ByName]:
        """The rows and statistics that the stages before `report` would have come to."""
        sizes = {"validation": VALIDATION, "test": self.examples}
        own = {split: self._rates(size, draw) for split, size in sizes.items()}
        tokens = {split: draw.integers(1, 12, size) for split, size in sizes.items()}
        rows: list[Row] = []
        statistics: ByName = {}
        for run in all_rows(params):
            is_variant = isinstance(run, Variant)
            row: Row = {"name": run.name, "kind": "variant" if is_variant else "baseline"}
            row |= {"length": run.length or 0, "seed": run.seed, "train_size": None}
            row["initialization"] = run.initialization if isinstance(run, Variant) else run.family
            row |= {"trainable_parameters": 1, "stored_bytes": 1, "cache_bytes": 1}
            row |= {"learning_rate": 1.0}
            row |= {"compared_with": None}
            moved = draw.normal(0.0, self.spread) + self.better * is_variant
            measured: Statistics = {}
            for split, size in sizes.items():
                right = draw.random(size) < own[split] + moved
                nats = draw.gamma(0.5 * tokens[split], 1.0)
                of_target = np.stack([nats, tokens[split]], axis=1).astype(float)
                measured[split, "loss"] = measured[split, "perplexity"] = of_target
                measured[split, "exact_match"] = np.stack([right, np.ones(size)], axis=1)
            for (split, name), matrix in measured.items():
                row[f"{split}_{name}"] = float(METRICS[name].score(matrix.sum(axis=0)))
            rows.append(row)
            statistics[run.name] = {key: measured[key] for key in measured if key[0] == "test"}
        return rows, statistics

    def truth(self, metric: str) -> float:
        """The score of the variants over all examples and seeds that there could be."""
        return 0.5 if metric == "loss" else self.rate + self.better

    def _rates(self, size: int, draw: np.random.Generator) -> np.ndarray:
        # Far enough from 0 and 1 for seeds to move them.
        reach = 0.8 * min(self.rate, 1 - self.rate)
        return self.rate + reach * (2 * draw.beta(2, 2, size) - 1)


def false_winners(runs: int, world: World, sort_by: str = "exact_match") -> Rates:
    """Over runs, of the best prefix: how often it is called significantly better than the baseline,
    and how often any prefix is; how often its interval holds the truth; how far its score is above
    the truth. Those that begin with `before` are of a winner chosen on test, and of one comparison.
    """
    params, metric = world.params(sort_by), METRICS[sort_by]
    counts = dict.fromkeys(("better", "any", "held", "above"), 0.0)
    counts |= {f"before {key}": 0.0 for key in counts}
    sign = 1 if metric.higher_is_better else -1
    for table, statistics in _tables(runs, world, params):
        column = params.report.judged_by
        variants = table[table["kind"] == "variant"]
        baseline = table.loc[table["kind"] == "baseline"].iloc[0]
        best = variants[variants["is_best"]].iloc[0]
        lucky = variants.iloc[int(np.argmax(sign * variants[column]))]
        matrices = [statistics[name]["test", sort_by] for name in (lucky["name"], baseline["name"])]
        alone = Resampling(world.examples, params.report.resamples, 0).p_value(metric, *matrices)
        leads = sign * (variants[column] - baseline[column])
        counts["any"] += bool(((variants[f"{column}_p_value"] < LEVEL) & (leads > 0)).any())
        # The one chosen on test is called better when any is.
        counts["before any"] += bool(alone < LEVEL and leads.max() > 0)
        for prefix, row, p, ends in (
            ("", best, best[f"{column}_p_value"], (best[f"{column}_low"], best[f"{column}_high"])),
            ("before ", lucky, alone, _percentiles(metric.score, matrices[0])),
        ):
            lead = sign * (row[column] - baseline[column])
            counts[f"{prefix}better"] += bool(p < LEVEL and lead > 0)
            counts[f"{prefix}held"] += bool(ends[0] <= world.truth(sort_by) <= ends[1])
            counts[f"{prefix}above"] += sign * (row[column] - world.truth(sort_by))
    return {key: count / runs for key, count in counts.items()}


def differences(runs: int, world: World) -> Rates:
    """How often a variant differs significantly from the baseline over seeds, and did `before`."""
    params = world.params("exact_match")
    judged_on = ("test", "exact_match")
    found = before = 0
    for table, statistics in _tables(runs, world, params):
        seeds = over_seeds(table, statistics, params)
        variants = seeds[seeds["kind"] == "variant"]
        found += int((variants[f"{params.report.judged_by}_p_value"] < LEVEL).any())
        one, other = (
            np.mean([own[judged_on] for name, own in statistics.items() if name.startswith(of)], 0)
            for of in ("len1-", "lora")
        )
        draws = Resampling(world.examples, params.report.resamples, 0)
        before += draws.p_value(METRICS["exact_match"], one, other) < LEVEL
    return {"differ": found / runs, "before differ": before / runs}


def _tables(runs: int, world: World, params: Params) -> Iterator[tuple[pd.DataFrame, ByName]]:
    draw = np.random.default_rng(0)
    for _ in range(runs):
        rows, statistics = world.draw(params, draw)
        yield judged(rows, statistics, params), statistics


def _percentiles(score: Any, matrix: np.ndarray) -> tuple[float, float]:
    draw, count = np.random.default_rng(0), len(matrix)
    times = draw.multinomial(count, np.full(count, 1 / count), size=1000).astype(float)
    low, high = np.quantile(score(times @ matrix), [0.025, 0.975])
    return float(low), float(high)


def _rates_of(found: Rates, key: str) -> tuple[str, str]:
    return f"{found[key]:.1%}", f"{found[f'before {key}']:.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description="How often the report's verdicts are wrong")
    parser.add_argument("--runs", type=int, default=500)
    runs = parser.parse_args().runs
    rows: list[tuple[str, str, str, str]] = []
    for sort_by, rate in (("exact_match", 0.5), ("exact_match", 0.1), ("loss", 0.5)):
        metric = METRICS[sort_by]
        found = false_winners(runs, World(variants=48, rate=rate), sort_by)
        at = f" ({rate:.0%})" if sort_by == "exact_match" else ""
        what = f"48 variants equal to the baseline, 80 examples, {metric.title}{at}: best"
        for shown, asked, key in (
            ("is significantly better", "6% at most", "better"),
            ("or any other is significantly better", "6% at most", "any"),
            ("has an interval that holds the truth", "93% at least", "held"),
        ):
            rows.append((f"{what} {shown}", asked, *_rates_of(found, key)))
        now, before = (metric.difference(found[key]) for key in ("above", "before above"))
        rows.append((f"{what} is above its true score by", "0", now, before))
    for better, asked in ((0.0, "6% at most"), (0.15, "most")):
        for examples in (80, 1000):
            world = World(seeds=3, examples=examples, spread=0.03, better=better)
            what = f"two methods {better * 100:.0f} points apart, 3 seeds with a spread of 3 points"
            what += f", {examples} examples: differ"
            rows.append((what, asked, *_rates_of(differences(runs, world), "differ")))
    headers = (f"of {runs} runs", "asked for", "is", "was")
    print(tabulate(rows, headers, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
