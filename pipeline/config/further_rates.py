"""Learning rates that the sweep lists: which of them would train nothing new."""

from pipeline.config.prefix import PrefixParams
from pipeline.config.sweep import SweepParams
from pipeline.config.task import TaskParams
from pipeline.config.train import TrainParams


def refuse_idle_rates(
    sweep: SweepParams, train: TrainParams, prefix: PrefixParams, task: TaskParams
) -> None:
    """Raise ValueError for a listed rate at which variants train anyway, or nothing trains.

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
    leaves_states_alone = prefix.has_states_alone and not task.is_classification
    if sweep.learning_rates and leaves_states_alone and train.state_learning_rate is not None:
        raise ValueError(
            f"sweep.learning_rates: {sweep.learning_rates} are rates at which nothing trains, "
            f"since prefix.kinds: {prefix.kinds} leaves states alone, and "
            "train.state_learning_rate is theirs; set that to null, which follows each rate, or "
            "the list to []"
        )
