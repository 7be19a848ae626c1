"""The folder that a training leaves for the stages after it, whatever it trained."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.prefix import PrefixModel
from pipeline.storage.atomic import atomic_folder
from pipeline.storage.records import write_csv, write_json
from pipeline.training.progress import TrainingResult


def write_results(
    folder: Path,
    model: PrefixModel,
    result: TrainingResult,
    train_size: int,
    save: Callable[[Path], None],
) -> dict[str, Any]:
    """Write what was trained, by `save` into the folder, beside history.csv and metrics.json.

    Returns the metrics: those of the result, the numbers trained, the training examples, the rate,
    the trials of its search where there was one, and the bytes of the weights that `save` wrote.
    """
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    with atomic_folder(folder) as aside:
        save(aside)
        write_csv(aside / "history.csv", pd.DataFrame(result.history, columns=result.columns))
        metrics: dict[str, Any] = {
            "trainable_parameters": trainable,
            "train_size": train_size,
            "learning_rate": result.learning_rate,
            **result.metrics(),
            "stored_bytes": stored_bytes(aside),
        }
        if result.search is not None:
            metrics["learning_rate_search"] = result.search.table
        write_json(aside / "metrics.json", metrics)
    return metrics


def stored_bytes(folder: Path) -> int:
    """The bytes of all weights in a folder and the folders within."""
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
