"""A baseline, and its names: of its folder, its runs, its row and its stage."""

from dataclasses import dataclass

IN_CONTEXT = "in_context_"
"""What the family of an initialisation's text in the context begins with."""


@dataclass(frozen=True)
class Baseline:
    """What variants are compared with, measured once.

    `family` is shared by what differs in length, seed or training size alone: a key of `baselines`
    or `trained_baselines`, or `in_context_<initialisation>` for one of `sweep.in_context`.
    `length` is known of the latter only; `seed` is one of a trained baseline.
    """

    family: str
    length: int | None = None
    seed: int | None = None
    train_size: int | None = None

    @property
    def name(self) -> str:
        """The folder name that dvc.yaml gives it: `no_prefix`, `lora-seed0-train50`, ..."""
        parts = (("len", self.length), ("seed", self.seed), ("train", self.train_size))
        return "-".join(
            [self.family, *(f"{key}{value}" for key, value in parts if value is not None)]
        )

    @property
    def dvc_stage(self) -> str:
        """The stage that measures it, as `dvc repro` and `dvc.lock` call it."""
        if self.length is not None:
            return f"in_context@{self.length}-{self.family.removeprefix(IN_CONTEXT)}"
        if self.train_size is not None:
            return f"evaluate_baseline_subset@{self.family}-{self.seed}-{self.train_size}"
        if self.seed is not None:
            return f"evaluate_baseline@{self.family}-{self.seed}"
        return f"baselines@{self.family}"
