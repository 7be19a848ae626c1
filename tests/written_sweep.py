"""A sweep as its stages leave it, without its trainings: what the report's page is made from."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.comparison.loss_curves import loss_curves
from pipeline.comparison.over_seeds import over_seeds
from pipeline.comparison.page import HTML, write_page
from pipeline.comparison.plots.table import draw
from pipeline.comparison.summary import statistics_of_all, summarize
from pipeline.config import Params
from pipeline.evaluation.metrics import kept_of, kept_of_labels, scores
from pipeline.inference.selection import best_of
from pipeline.metrics.metric import OfTarget
from pipeline.metrics.table import names_of
from pipeline.sweep.grid import all_baselines, sweep
from tests.conftest import tiny_params

TEXT = "the height of this old tower is about forty metres and it was built of stone"


def params_of(**sections: dict[str, Any]) -> Params:
    """The toy task's params with other values in these sections."""
    raw = tiny_params(Path("/of/mine/tiny-model"))
    raw["evaluate"] |= {"splits": ["test"], "metrics": ["exact_match", "token_f1"]}
    for name, values in sections.items():
        raw[name] = {**raw.get(name, {}), **values}
    if "baselines" in sections:
        raw["baselines"] = sections["baselines"]
    if "initializations" in sections:
        raw["initializations"] = sections["initializations"]
    return Params.model_validate(raw)


def write_sweep(
    folder: Path, params: Params, examples: int = 12, steps: int = 30, text: str = ""
) -> None:
    """Files of `data` in `folder` for everything that params lists.

    Losses fall with the length; baselines are worse. `text` joins every input, reference and
    prediction, and the ids.
    """
    draw = np.random.default_rng(0)
    data = folder / "data"
    _write(data / "tokenized" / "statistics.json", {"validation": {"examples": examples}})
    for variant in sweep(params):
        train = data / "train" / variant.name
        costs = {"trainable_parameters": 64 * variant.length, "stored_bytes": 256 * variant.length}
        rate = params.train.at(variant.learning_rate).learning_rate
        trained = {"learning_rate": 0.0464 if rate == "auto" else rate}
        trained |= {"train_size": variant.train_size or 12, **costs}
        _write(train / "metrics.json", trained)
        losses = 3 / np.arange(1, steps + 1) ** 0.5 + draw.uniform(0, 0.1, steps)
        (train / "history.csv").write_text(_history(losses))
        cache = {"cache_bytes": 256 * variant.length}
        quality = 1 / (1 + variant.length)
        _evaluate(data / "evaluate" / variant.name, params, examples, quality, cache, draw, text)
    for baseline in all_baselines(params):
        length = baseline.length or 0
        costs = {"context_tokens": length, "cache_bytes": 256 * length, "stored_bytes": 0}
        costs |= {"trainable_parameters": 0}
        if baseline.seed is not None:
            costs |= {"train_size": baseline.train_size or 12, "stored_bytes": 5000}
            _write(data / "train" / baseline.name / "metrics.json", costs)
            history = data / "train" / baseline.name / "history.csv"
            history.write_text(_history(np.linspace(3, 2, steps)))
        _evaluate(data / "evaluate" / baseline.name, params, examples, 2.0, costs, draw, text)


def write_report(params: Params) -> Path:
    """The page and its Markdown below the working folder's `data/report`; returns the page."""
    statistics = statistics_of_all(params)
    table = summarize(params, statistics)
    seeds = over_seeds(table, statistics, params)
    charts = draw(params, table, seeds, loss_curves(params))
    folder = Path("data/report")
    write_page(params, table, seeds, statistics, best_of(table), charts, folder)
    return (folder / HTML).resolve()


def _history(losses: np.ndarray) -> str:
    """A row a step, validated at the start, every tenth step and in the end."""
    lines = ["step,train/loss,validation/loss", "0,,4.0"]
    for step, loss in enumerate(losses, 1):
        validated = loss + 0.1 if step % 10 == 0 or step == len(losses) else ""
        lines.append(f"{step},{loss},{validated}")
    return "\n".join(lines) + "\n"


def _evaluate(
    folder: Path,
    params: Params,
    examples: int,
    loss: float,
    costs: dict[str, int],
    draw: np.random.Generator,
    text: str,
) -> None:
    lines: list[dict[str, Any]] = []
    measured: dict[str, Any] = dict(costs)
    for split in params.evaluate.measured_splits:
        of_split = []
        for index in range(examples):
            words = TEXT.split()[index % 8 :]
            right = " ".join(words)
            kept = draw.random(len(words)) > loss / 3
            given = " ".join(w if k else w[::-1] for w, k in zip(words, kept, strict=True))
            line: dict[str, Any] = {
                "split": split,
                "id": f"{split}-{index}{text}",
                "input": f"question {index}?{text}",
                "references": [f"{right}{text}"],
                "prediction": f"{given}{text}",
                "loss": float(draw.uniform(0.8, 1.2)) * loss * len(words),
                "target_tokens": len(words),
            }
            of_text = [name for name in params.metrics if name not in names_of(OfTarget)]
            if params.task.is_classification:
                line |= kept_of_labels([index % 2], [int(kept[0])], 2)
            else:
                line |= kept_of(line["prediction"], line["references"], of_text)
            of_split.append(line)
        measured[split] = scores(of_split, of_text)
        lines += of_split
    folder.mkdir(parents=True)
    _write(folder / "metrics.json", measured)
    text_of = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "predictions.jsonl").write_text(text_of)


def _write(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
