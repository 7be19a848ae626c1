"""The training of one prefix from its beginning, or its last checkpoint, to its end."""

from datasets import Dataset

from pipeline.config.train import TrainParams
from pipeline.distributed.ranks import ALONE, Ranks
from pipeline.prefix import PrefixModel
from pipeline.progress.bar import Bar
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.interruption import interruptible
from pipeline.training.progress import TrainingResult
from pipeline.training.training import Training
from pipeline.workspace.timings import LogStep


def train_prefix(
    model: PrefixModel,
    train: Dataset,
    validation: Dataset,
    params: TrainParams,
    seed: int,
    log_step: LogStep,
    checkpoints: CheckpointFolder | None = None,
    validation_tokens: int = 4096,
    ranks: Ranks = ALONE,
) -> TrainingResult:
    """Train a prefix; `log_step` gets each step's metrics as it happens, speed included.

    Of a model without one, whatever takes a gradient is trained: LoRA's matrices, or all weights.

    With `checkpoints` (of a prefix) the training goes on from the last one, with the same bytes as
    if it had never been interrupted. SIGINT and SIGTERM end it after the step at hand.
    `validation_tokens` bounds the rows times tokens of a validation batch.

    Several processes call it alike, with their `ranks`, and each computes its share of every
    batch: the result is that of one. Checkpoints are the first's.

    Raises:
        DivergedError: when the loss or the gradient stops being a number of use.
        StoppedError: after a signal.
    """
    training = Training(
        model,
        train,
        validation,
        params,
        seed,
        log_step,
        checkpoints,
        validation_tokens,
        ranks=ranks,
    )
    training.begin()
    bar = Bar(training.steps, "train", "step", initial=training.result.step)
    with interruptible() as asked, bar:
        while not training.is_finished:
            step = training.choose()
            training.compute(step)
            training.settle(step)
            training.update(step)
            bar.update(note=training.record(step))
            training.keep()
            training.stop_if_asked(asked)
    return training.result
