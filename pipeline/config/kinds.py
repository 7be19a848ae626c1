"""What `prefix.kinds` leaves out: keys of several sections that have no meaning then."""

from pipeline.config.prefix import PrefixParams
from pipeline.config.task import TaskParams
from pipeline.config.train import TrainParams


def refuse_unused_kinds(prefix: PrefixParams, train: TrainParams, task: TaskParams) -> None:
    """Raise ValueError for states beside what has none, and for a rate that trains nothing."""
    kinds = prefix.kinds
    if kinds is None:
        return
    if "state" in kinds and task.type == "seq2seq_lm":
        raise ValueError(
            f"prefix.kinds: {kinds} needs a decoder with recurrent layers, and task.type: "
            "seq2seq_lm has an encoder-decoder; use null"
        )
    has_other_rate = "attention" in kinds or task.is_classification
    searched = train.learning_rate == "auto"
    if searched and train.state_learning_rate is not None and not has_other_rate:
        raise ValueError(
            "train.learning_rate: auto searches a rate at which nothing trains, since "
            f"prefix.kinds: {kinds} leaves states alone, and train.state_learning_rate is theirs; "
            "set that to null, which follows the search, or give a number"
        )
    if "state" not in kinds and train.state_learning_rate is not None:
        raise ValueError(
            f"train.state_learning_rate: {train.state_learning_rate} is of initial states, which "
            f"prefix.kinds: {kinds} leaves out; set it to null"
        )
