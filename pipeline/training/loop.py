"""The training of one prefix from its beginning, or its last checkpoint, to its end."""

from datasets import Dataset

from pipeline.config.train import TrainParams
from pipeline.data.rows import TokenizedRows
from pipeline.distributed.ranks import ALONE, Ranks
from pipeline.errors import PipelineError
from pipeline.prefix import PrefixModel
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.left_out import NOTHING, LeftOut
from pipeline.training.optimizer import Apart
from pipeline.training.progress import TrainingResult
from pipeline.training.step import ModelOfStep
from pipeline.training.together import train_all
from pipeline.training.training import Training
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

    `apart` are parameters with a peak rate of their own, and that rate.

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
        beside=beside,
        left_out=left_out,
        apart=apart,
    )
    train_all([training], _raise)
    return training.result


def _raise(_: Training, error: PipelineError | None) -> None:
    if error is not None:
        raise error
