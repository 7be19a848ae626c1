"""Whether `prefix.leave_one_out` has a demonstration to leave out."""

from collections.abc import Mapping

from pipeline.config.prefix import PrefixParams
from pipeline.config.sweep import SweepParams
from pipeline.config.task import TaskParams
from pipeline.initialization.start import Start


def refuse_nothing_to_leave_out(
    prefix: PrefixParams, sweep: SweepParams, starts: Mapping[str, Start], task: TaskParams
) -> None:
    """Raise ValueError where no variant starts from training examples, or what they become is read
    apart from their answers.

    Variants from other starts stand in a sweep beside them: they have nothing to leave out.
    """
    if not prefix.leave_one_out:
        return
    if task.type == "seq2seq_lm":
        raise ValueError(
            "prefix.leave_one_out: true needs inputs and targets in one text, and task.type: "
            "seq2seq_lm reads them apart; set it to false"
        )
    if not any(starts[name].shows_examples for name in sweep.initializations):
        raise ValueError(
            "prefix.leave_one_out: true hides training examples that a prefix started from, and "
            "no initialisation in sweep.initializations is of type demonstrations or "
            "chosen_demonstrations; add one, or set it to false"
        )
