"""The sweep grid and the names of its variants."""

import itertools
import re
from dataclasses import dataclass

from pipeline.config import Params
from pipeline.errors import PipelineError


@dataclass(frozen=True, order=True)
class Variant:
    """One (prefix length in virtual tokens, initialisation, seed)."""

    length: int
    initialization: str
    seed: int

    @property
    def name(self) -> str:
        """The folder name that dvc.yaml gives this variant, for example `len32-random-seed0`."""
        return f"len{self.length}-{self.initialization}-seed{self.seed}"

    @classmethod
    def parse(cls, name: str) -> "Variant":
        """The inverse of `name`; PipelineError when `name` is of another form."""
        match = re.fullmatch(r"len(\d+)-([a-z][a-z0-9_]*)-seed(\d+)", name)
        if match is None:
            raise PipelineError(
                f"'{name}' is no variant's name; one looks like len32-demonstrations-seed0"
            )
        return cls(int(match[1]), match[2], int(match[3]))


def sweep(params: Params) -> list[Variant]:
    """All variants of params.yaml, in the order of its lists."""
    grid = itertools.product(params.sweep.lengths, params.sweep.initializations, params.sweep.seeds)
    return [Variant(*point) for point in grid]
