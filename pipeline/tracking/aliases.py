"""What MLflow calls a variant where it takes letters, digits, dashes and underscores alone."""

import re


def alias_of(name: str) -> str:
    """A variant's name as an alias of a model's version, and as the name of the model itself.

    `len8-random-seed0-lr0.01` is `len8-random-seed0-lr0_01`; most names are their own aliases.
    """
    return re.sub(r"[^\w-]", "_", name)
