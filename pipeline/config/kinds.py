"""What `prefix.kinds` leaves out: keys of several sections that have no meaning then."""

from pipeline.config.prefix import PrefixParams
from pipeline.config.task import TaskParams
from pipeline.config.train import TrainParams


def refuse_unused_kinds(prefix: PrefixParams, train: TrainParams, task: TaskParams) -> None:
    """Raise ValueError for states of what has none, and for a rate of states that are left out."""
    kinds = prefix.kinds
    if kinds is None:
        return
    if "state" in kinds and task.type == "seq2seq_lm":
        raise ValueError(
            f"prefix.kinds: {kinds} needs a decoder with recurrent layers, and task.type: "
            "seq2seq_lm has an encoder-decoder; use null"
        )
    if "state" not in kinds and train.state_learning_rate is not None:
        raise ValueError(
            f"train.state_learning_rate: {train.state_learning_rate} is of initial states, which "
            f"prefix.kinds: {kinds} leaves out; set it to null"
        )
