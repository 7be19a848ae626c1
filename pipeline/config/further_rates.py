"""Learning rates that the sweep lists beside the one of `train`."""

from pipeline.config.sweep import SweepParams
from pipeline.config.train import TrainParams


def refuse_further_rates(sweep: SweepParams, train: TrainParams) -> None:
    """Raise ValueError for a listed rate at which variants train anyway.

    And for no list at all: DVC has no default for it.
    """
    if "learning_rates" not in sweep.model_fields_set:
        raise ValueError(
            "sweep.learning_rates: is missing, and DVC reads it; add learning_rates: [], which "
            "stands for none"
        )
    if train.learning_rate in sweep.learning_rates:
        raise ValueError(
            f"sweep.learning_rates: {train.learning_rate} is train.learning_rate, at which every "
            "variant trains in any case; leave it out of the list"
        )
