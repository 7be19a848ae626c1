"""The digest of everything that determines a variant's training."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.config import Params
from pipeline.prefix import KVPrefix
from pipeline.prefix.demonstrated import DEMONSTRATIONS
from pipeline.standing.stage_code import code_of
from pipeline.sweep.variants import Variant
from pipeline.training.digest import digest_of_training
from pipeline.workspace import paths


def training_digest(params: Params, variant: Variant, start: KVPrefix) -> str:
    """A sha256 over params, inputs, the start, the code and the libraries of one training.

    Number of threads and kind of processor are not in it: on one machine they stay, and a training
    is worth more than its last bit on another.
    """
    settings: dict[str, Any] = {
        "variant": variant.name,
        "train": params.train.at(variant.learning_rate).model_dump(),
        "prefix": params.prefix.model_dump(),
        "demonstrations": start.metadata.get(DEMONSTRATIONS),
    }
    objective = params.train.objective
    taught = [Path(objective.path)] if objective.distilled else []
    inputs = [paths.MODEL, paths.TOKENIZED / "splits", *taught]
    return digest_of_training(settings, start, inputs, params.prefix.distractors.files(), "train")


def code_of_training() -> Iterator[Path]:
    """The files of this package that the stage `train` depends on."""
    return code_of("train")
