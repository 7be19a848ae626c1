"""The training of one prefix from its beginning, or its last checkpoint, to its end."""

from contextlib import ExitStack

from datasets import Dataset

from pipeline.config.train import TrainParams
from pipeline.data.rows import TokenizedRows
from pipeline.distributed.ranks import ALONE, Ranks
from pipeline.errors import DivergedError, PipelineError
from pipeline.prefix import PrefixModel
from pipeline.progress.bar import Bar
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.divergence import or_lower
from pipeline.training.halving import FoundRate
from pipeline.training.interruption import interruptible
from pipeline.training.kept_trials import KeptTrials
from pipeline.training.left_out import NOTHING, LeftOut
from pipeline.training.optimizer import Apart, planned_steps
from pipeline.training.progress import TrainingResult
from pipeline.training.rates import unsearched_keys
from pipeline.training.step import ModelOfStep
from pipeline.training.together import train_all
from pipeline.training.training import Training
from pipeline.training.trials import ShortTraining, Trials
from pipeline.workspace.timings import LogStep


def train_prefix(
    model: PrefixModel,
    train: Dataset | TokenizedRows,
    validation: Dataset | TokenizedRows,
    params: TrainParams,
    seed: int,
    log_step: LogStep,
    checkpoints: CheckpointFolder | None = None,
    validation_tokens: int = 4096,
    ranks: Ranks = ALONE,
    beside: ModelOfStep | None = None,
    left_out: LeftOut = NOTHING,
    apart: Apart | None = None,
) -> TrainingResult:
    """Train a prefix; `log_step` gets each step's metrics as it happens, speed included.

    Of a model without one, whatever takes a gradient is trained: LoRA's matrices, or all weights.

    With `checkpoints` (of a prefix) the training goes on from the last one, with the same bytes as
    if it had never been interrupted. SIGINT and SIGTERM end it after the step at hand.
    `validation_tokens` bounds the rows times tokens of a validation batch, in which the prefix
    stands alone and whole, whatever stands `beside` it, or is `left_out` of it, in training.

    Where `params.learning_rate` is `auto`, short trainings from the same start on the same batches
    find the rate first (see `search_rate`), and the result is that of a training with this rate, to
    the bit. With `checkpoints` a killed search goes on, too.

    `apart` are parameters with a peak rate of their own, and that rate, which a search leaves as it
    is.

    Several processes call it alike, with their `ranks`, and each computes its share of every
    batch: the result is that of one. Checkpoints are the first's.

    Raises:
        DivergedError: when the loss or the gradient stops being a number of use, or does so at
            every rate of a search.
        StoppedError: after a signal.
    """

    def short_training(short: TrainParams) -> ShortTraining:
        return ShortTraining(
            *(model, train, validation, short, seed, lambda *_: None),
            validation_tokens=validation_tokens,
            say=lambda _: None,
            ranks=ranks,
            beside=beside,
            left_out=left_out,
            apart=apart,
        )

    found: FoundRate | None = None
    bar: Bar | None = None
    with ExitStack() as stack:
        if params.learning_rate == "auto":
            steps = planned_steps(params, len(train))
            kept = KeptTrials.beside(checkpoints)
            trials = Trials(short_training, model, params, steps, ranks, kept)
            bar = Bar(trials.planned + steps, "train", "step", initial=trials.done)
            stack.enter_context(bar)
            try:
                with interruptible() as asked:
                    found = trials.search(bar, asked)
            except DivergedError as error:
                raise or_lower(error, unsearched_keys(model, params)) from error
            params = params.model_copy(update={"learning_rate": found.rate})
            # It holds a copy of what is trained, which may be every weight.
            del trials
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
            beside=beside,
            left_out=left_out,
            apart=apart,
        )
        training.result.search = found
        train_all([training], _raise, bar=bar)
    return training.result


def _raise(_: Training, error: PipelineError | None) -> None:
    if error is not None:
        raise error
