"""A variant, and its names: of its folder, its runs, its row and its stage."""

import re
from dataclasses import dataclass

from pipeline.errors import PipelineError

BEST = "best"
"""What stands for the winner of the last report where a variant is named."""


@dataclass(frozen=True)
class Variant:
    """One (prefix length in virtual tokens, initialisation, seed), and where it has one, a size.

    `train_size` is a number of training examples; None for the whole training split.
    """

    length: int
    initialization: str
    seed: int
    train_size: int | None = None

    @property
    def name(self) -> str:
        """The folder name that dvc.yaml gives this variant, for example `len32-random-seed0`.

        With a training size `len32-random-seed0-train50`.
        """
        whole = f"len{self.length}-{self.initialization}-seed{self.seed}"
        return whole if self.train_size is None else f"{whole}-train{self.train_size}"

    @property
    def dvc_stage(self) -> str:
        """The stage that trains it, as `dvc repro` and `dvc.lock` call it."""
        point = f"{self.length}-{self.initialization}-{self.seed}"
        if self.train_size is None:
            return f"train@{point}"
        return f"train_subset@{point}-{self.train_size}"

    @classmethod
    def parse(cls, name: str) -> "Variant":
        """The inverse of `name`; PipelineError when `name` is of another form."""
        match = re.fullmatch(r"len(\d+)-([a-z][a-z0-9_]*)-seed(\d+)(?:-train(\d+))?", name)
        if match is None:
            raise PipelineError(
                f"'{name}' is no variant's name; one looks like len32-demonstrations-seed0"
            )
        size = int(match[4]) if match[4] else None
        return cls(int(match[1]), match[2], int(match[3]), size)
