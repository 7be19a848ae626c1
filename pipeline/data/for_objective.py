"""The splits that a training reads, with what its objective needs of them."""

from pathlib import Path

from datasets import Dataset

from pipeline.config.objective import Objective
from pipeline.data.splits import load_split
from pipeline.data.teacher import with_predictions


def load_for_objective(folder: Path, objective: Objective) -> dict[str, Dataset]:
    """The tokenized splits `train` and `validation`, where the objective distils with the
    teacher's predictions as columns."""
    splits = {name: load_split(folder, name) for name in ("train", "validation")}
    if not objective.distilled:
        return splits
    taught = Path(objective.path)
    return {name: with_predictions(split, taught, name) for name, split in splits.items()}
