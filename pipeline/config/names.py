"""Names that something else has already."""

import re
from collections.abc import Mapping

from pipeline.config.baselines import UntrainedBaselines
from pipeline.schema.section import Section

PREFIX = "prefix"
"""What prefixes are called, whatever their length and start, beside each trained baseline."""


def refuse_taken_names(
    baselines: UntrainedBaselines,
    trained: Mapping[str, Section],
    initializations: Mapping[str, Section],
) -> None:
    """Raise ValueError for a name that would stand for two things.

    The tables over seeds take `-seed0` out of a variant's name, and know its training size by
    `-train50`: no initialisation within it may look like either. Other baselines' names have their
    seed or length behind them. An adapter's, alone, is a variant's: beside the initialisations in
    plots, and in MLflow the alias of a model's version. A trained baseline is a method in the
    report's tables by budget, as prefixes together are one.
    """
    for name in initializations:
        if re.fullmatch(r"(seed|train)\d+", name):
            raise ValueError(
                f"initializations.{name}: is what a variant's name has for its seed or its "
                f"training size, as in len8-random-{name}; rename it"
            )
    if PREFIX in trained:
        raise ValueError(
            f"trained_baselines.{PREFIX}: '{PREFIX}' is what the prefixes of the sweep are called "
            "as a method in the report's tables by budget; rename it"
        )
    for name, baseline in baselines.items():
        taken = None
        if name == "best":
            taken = "'best' stands for the winner of the report wherever a variant is named"
        elif name == "sweep":
            taken = "'sweep' is what the run of the whole sweep is called in MLflow"
        elif baseline.is_variant and re.fullmatch(r"latest|v\d+", name):
            taken = f"MLflow keeps '{name}' for itself where a version of a model is named"
        elif baseline.is_variant and name in initializations:
            taken = "an initialisation has this name"
        if taken is not None:
            raise ValueError(f"baselines.{name}: {taken}; rename it")
