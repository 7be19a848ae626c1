"""Keys of `train` that are of keys and values, and prefixes that have none to train."""

from collections.abc import Iterator
from typing import Any

from pipeline.config.prefix import PrefixParams
from pipeline.config.train import TrainParams


def given_for_blocks(train: TrainParams) -> Iterator[tuple[str, Any, Any]]:
    """The keys that ask for something of layers' keys and values: key, value, what asks nothing."""
    for key, value, unset in (
        ("optimizer.type", train.optimizer.type, "adamw"),
        ("key_rate_factor", train.key_rate_factor, 1.0),
        ("relative_rates", train.relative_rates, False),
    ):
        if value != unset:
            yield key, value, unset


def refuse_nothing_to_move(prefix: PrefixParams, train: TrainParams, of: str = "") -> None:
    """Raise ValueError for a key of `train` that nothing of the prefix would be moved by.

    `of` is what stands before both sections' names.
    """
    for key, value, unset in given_for_blocks(train):
        asked, instead = f"{of}train.{key}: {_shown(value)}", _shown(unset)
        if prefix.has_states_alone:
            raise ValueError(
                f"{asked} is of keys and values, and {of}prefix.kinds: [state] has none; set it to "
                f"{instead}, or add attention"
            )
        # Muon takes the matrices of an MLP as well.
        if prefix.prefix_projection and key != "optimizer.type":
            raise ValueError(
                f"{asked} is of keys and values that are trained themselves, and "
                f"{of}prefix.prefix_projection: true trains an MLP that yields them; set it to "
                f"{instead}, or prefix_projection to false"
            )


def _shown(value: Any) -> str:
    return str(value).lower()
