"""Learning rates at which nothing trains: those beside states, which have a rate of their own."""

from collections.abc import Iterator

from pipeline.config.prefix import PrefixParams
from pipeline.config.sweep import SweepParams
from pipeline.config.task import TaskParams
from pipeline.config.train import TrainParams


def refuse_idle_rates(
    prefix: PrefixParams, train: TrainParams, sweep: SweepParams, task: TaskParams
) -> None:
    """Raise ValueError for such a rate where `prefix.kinds` leaves states alone."""
    if not prefix.has_states_alone:
        return
    reason = f"prefix.kinds: {prefix.kinds} leaves states alone"
    for sentence in idle_rates(train, sweep, task, reason):
        raise ValueError(sentence)


def idle_rates(
    train: TrainParams, sweep: SweepParams, task: TaskParams, reason: str
) -> Iterator[str]:
    """A sentence of each such rate where states alone are trained, for a `reason`."""
    # The head of a classifier trains at the rate of keys and values.
    if train.state_learning_rate is None or task.is_classification:
        return
    idle = f"nothing trains, since {reason}, and train.state_learning_rate is theirs"
    if train.learning_rate == "auto":
        yield (
            f"train.learning_rate: auto searches a rate at which {idle}; set that to null, which "
            "follows the search, or give a number"
        )
    if sweep.learning_rates:
        yield (
            f"sweep.learning_rates: {sweep.learning_rates} are rates at which {idle}; set that to "
            "null, which follows each rate, or the list to []"
        )
