"""What the sweep lists, against the sections that it is made of."""

from pipeline.config.data import DataParams
from pipeline.config.initializations import Initializations
from pipeline.config.kv_prefix import KVPrefixParams
from pipeline.config.prefix import PrefixParams
from pipeline.config.sweep import SweepParams


def refuse_unknown_initializations(sweep: SweepParams, initializations: Initializations) -> None:
    """Raise ValueError for one that the sweep lists and no section defines."""
    for name in sweep.initializations:
        if name not in initializations:
            known = ", ".join(initializations)
            raise ValueError(
                f"sweep.initializations: '{name}' is not defined under initializations; "
                f"define it there or use one of: {known}"
            )


def refuse_too_large_sizes(sweep: SweepParams, data: DataParams) -> None:
    """Raise ValueError for a part of the training split that is larger than what is kept of it."""
    most = data.max_examples.train
    largest = max(sweep.train_sizes, default=0)
    if most is not None and largest > most:
        raise ValueError(
            f"sweep.train_sizes: {largest} is above data.max_examples.train = {most}; raise "
            "that or lower the size"
        )


def refuse_unfit_lengths(
    sweep: SweepParams,
    initializations: Initializations,
    kv_prefix: KVPrefixParams,
    prefix: PrefixParams,
) -> None:
    """Raise ValueError for a length that some start cannot have, or of which nothing is trained."""
    longest = max(sweep.lengths)
    for name in (*sweep.initializations, *sweep.in_context):
        initializations[name].check_lengths(name, longest, kv_prefix.max_length)
    shortest = min(sweep.lengths)
    if prefix.num_frozen_tokens >= shortest:
        raise ValueError(
            f"prefix.num_frozen_tokens: {prefix.num_frozen_tokens} leaves nothing to "
            f"train in a prefix of {shortest} virtual tokens; it must be below every length "
            "in sweep.lengths"
        )


def refuse_unknown_variants(sweep: SweepParams, initializations: Initializations) -> None:
    """Raise ValueError for a start from a trained variant that the sweep has not."""
    trained = {
        f"data/train/len{length}-{name}-seed{seed}/prefix.safetensors"
        for length in sweep.lengths
        for name in sweep.initializations
        for seed in sweep.seeds
    }
    for name, start in initializations.items():
        start.check_path(name, trained)
