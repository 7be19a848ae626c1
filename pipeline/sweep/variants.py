"""A variant, and its names: of its folder, its runs, its row and its stage."""

import re
from dataclasses import dataclass

from pipeline.errors import PipelineError

BEST = "best"
"""What stands for the winner of the last report where a variant is named."""


@dataclass(frozen=True)
class Variant:
    """One (prefix length in virtual tokens, initialisation, seed), and a size or a rate of its own.

    `train_size` is a number of training examples; None for the whole training split.
    `learning_rate` is the peak of its training; None for `train.learning_rate`. Raises
    PipelineError for both at once: each is an addition to the plain variant.
    """

    length: int
    initialization: str
    seed: int
    train_size: int | None = None
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        if self.train_size is not None and self.learning_rate is not None:
            raise PipelineError(
                "a variant has a training size of its own or a learning rate of its own; give "
                "--train-size or --learning-rate alone"
            )

    @property
    def is_plain(self) -> bool:
        """Whether it is trained on the whole training split at `train.learning_rate`."""
        return self.train_size is None and self.learning_rate is None

    @property
    def name(self) -> str:
        """The folder name that dvc.yaml gives this variant, for example `len32-random-seed0`.

        With a training size `len32-random-seed0-train50`, at a rate `len32-random-seed0-lr0.01`:
        a rate is written as Python writes a float, which is how DVC writes it too.
        """
        plain = f"len{self.length}-{self.initialization}-seed{self.seed}"
        if self.learning_rate is not None:
            return f"{plain}-lr{self.learning_rate}"
        return plain if self.train_size is None else f"{plain}-train{self.train_size}"

    @property
    def dvc_stage(self) -> str:
        """The stage that trains it, as `dvc repro` and `dvc.lock` call it."""
        point = f"{self.length}-{self.initialization}-{self.seed}"
        if self.learning_rate is not None:
            return f"train_at_rate@{point}-{self.learning_rate}"
        if self.train_size is not None:
            return f"train_subset@{point}-{self.train_size}"
        return f"train@{point}"

    @classmethod
    def parse(cls, name: str) -> "Variant":
        """The inverse of `name`; PipelineError when `name` is of another form."""
        match = re.fullmatch(
            r"len(\d+)-([a-z][a-z0-9_]*)-seed(\d+)"
            r"(?:-train(\d+)|-lr(\d+(?:\.\d+)?(?:e[+-]\d+)?))?",
            name,
        )
        if match is None:
            raise PipelineError(
                f"'{name}' is no variant's name; one looks like len32-demonstrations-seed0"
            )
        size = int(match[4]) if match[4] else None
        rate = float(match[5]) if match[5] else None
        return cls(int(match[1]), match[2], int(match[3]), size, rate)
