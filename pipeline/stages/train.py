"""Stage `train`: one variant's prefix against the frozen model."""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from pipeline.config import Params
from pipeline.config.objective import Objective
from pipeline.data.beginning import following
from pipeline.data.for_objective import load_for_objective
from pipeline.data.rows import rows_of
from pipeline.data.subset import subset
from pipeline.data.task_type import task_of
from pipeline.distributed.ranks import ALONE, Ranks
from pipeline.distributed.sharding import shard_frozen_model
from pipeline.errors import DivergedError, PipelineError
from pipeline.loss.for_model import loss_columns
from pipeline.models.for_variant import shows_examples, timed_start
from pipeline.models.frozen import resolve_device
from pipeline.models.shared import load_for_task
from pipeline.models.trainable import prefix_config
from pipeline.prefix import KVPrefix, PrefixModel
from pipeline.prefix.demonstrated import tokens_of
from pipeline.prefix.packed.backends import use_backend
from pipeline.sweep.variants import Variant
from pipeline.tracking.training_run import TrainingRun
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.distractors import Distractors, read_distractors
from pipeline.training.divergence import in_section
from pipeline.training.identity import training_digest
from pipeline.training.left_out import LeftOut
from pipeline.training.loop import train_prefix
from pipeline.training.progress import TrainingResult
from pipeline.training.results import write_results
from pipeline.workspace import location, paths
from pipeline.workspace.checkpoints import checkpoint_name, remove_checkpoints
from pipeline.workspace.timings import TrainingClock


def run(params: Params, variant: Variant, ranks: Ranks = ALONE) -> None:
    """Write data/train/<variant>: the prefix, the loss history, and what training came to.

    Of several processes, whose `ranks` say which one this is, the first writes, logs, and holds
    the variant.
    """
    use_backend(params.hardware.attention)
    settings = params.train.at(variant.learning_rate)
    splits = read_splits(variant, params.train.objective)
    task = task_of(paths.TOKENIZED / "splits")
    # What projects a prefix is drawn with it; a process begins with random numbers of its own.
    torch.manual_seed(variant.seed)
    sharded = params.hardware.shard_frozen_model and ranks.size > 1
    # A model that is to be sharded may be too large for the device.
    compute = params.train.model_copy(update={"device": "cpu"} if sharded else {})
    frozen, new = load_for_task(paths.MODEL, compute, task, variant.seed, params.device_map)
    config = prefix_config(params.prefix, variant.length, new)
    model = PrefixModel(frozen, config)
    # Where validation chooses a start, machines may round to another choice.
    start, start_seconds = timed_start(variant, model)
    start = ranks.from_first(start)
    model.load_kv_prefix(start)
    train, validation = (following(split, model.begins_text) for split in splits.values())
    left_out = left_out_of(params, variant, start)
    distractors = distractors_of(params, variant, model, train)
    beside = None if distractors is None else distractors.model_of
    if sharded:
        shard_frozen_model(model, ranks, resolve_device(params.train.device))
    training = (model, train, validation, settings, variant.seed)
    tokens = params.memory.max_tokens_per_batch
    if not ranks.is_first:
        ranks.wait_for_first("holds the variant")
        train_prefix(*training, lambda step, metrics: None, None, tokens, ranks, beside, left_out)
        return
    checkpoints = checkpoints_of(params, variant, start)
    with checkpoints.locked(), TrainingRun(params, variant, checkpoints.digest, splits) as tracking:
        ranks.wait_for_first("holds the variant")
        clock = TrainingClock(tracking.log_step)
        log_step = clock.log_step
        try:
            result = train_prefix(*training, log_step, checkpoints, tokens, ranks, beside, left_out)
        except DivergedError as error:
            raise as_listed(variant, error) from error
        metrics = write_variant(variant, model, result, len(train))
        clock.record(variant.name, **result.search_times, start_seconds=start_seconds)
        tracking.finish(paths.TRAIN / variant.name, metrics)
    if distractors is not None:
        distractors.detach()
    leave(variant, model, checkpoints)


def read_splits(variant: Variant, objective: Objective) -> dict[str, Dataset]:
    """The splits that a variant is trained on and validated on, `train` cut to its size.

    Where the objective distils, each example has its teacher's predictions beside it.
    """
    splits = load_for_objective(paths.TOKENIZED / "splits", objective)
    splits["train"] = subset(splits["train"], variant.train_size, variant.seed)
    return splits


def left_out_of(params: Params, variant: Variant, start: KVPrefix) -> LeftOut:
    """What `prefix.leave_one_out` and `prefix.token_dropout` hide in a variant's training.

    Of a variant that starts from no training example the first of them hides nothing. Raises
    PipelineError where it is not known which virtual tokens came from which example.
    """
    chosen, own = params.prefix, None
    if chosen.leave_one_out:
        own = tokens_of(start.metadata)
        if own is None and shows_examples(variant):
            raise PipelineError(
                f"prefix.leave_one_out: the chat template writes the demonstrations of "
                f"'{variant.initialization}' otherwise where others follow, so that they cannot be "
                f"told apart; give initializations.{variant.initialization}.template, or set it to "
                "false"
            )
        if own:
            print(f"leave-one-out: {len(own)} training examples do not see their own demonstration")
    return LeftOut(
        len(start), chosen.token_dropout, chosen.num_frozen_tokens, variant.seed, own or {}
    )


def distractors_of(
    params: Params, variant: Variant, model: PrefixModel, train: Dataset
) -> Distractors | None:
    """What `prefix.distractors` mixes into a variant's training; None where it asks for none."""
    chosen = params.prefix.distractors
    if not chosen.count:
        return None
    longest = int(rows_of(train, loss_columns(train)).tokens.max())
    return Distractors(model, read_distractors(chosen), chosen, variant.seed, longest)


def as_listed(variant: Variant, error: PipelineError) -> PipelineError:
    """An error of a training, where it is of a further rate by the key that lists it."""
    if variant.learning_rate is None or not isinstance(error, DivergedError):
        return error
    return in_section(error, {"train.learning_rate": "sweep.learning_rates"})


def checkpoints_of(params: Params, variant: Variant, start: KVPrefix) -> CheckpointFolder:
    """Where the training of a variant from this start keeps its checkpoints."""
    digest = training_digest(params, variant, start)
    folder = location.home() / paths.CHECKPOINTS / checkpoint_name(variant.name, digest)
    return CheckpointFolder(folder, digest, params.checkpoints.every_steps)


def write_variant(
    variant: Variant, model: PrefixModel, result: TrainingResult, train_size: int
) -> dict[str, Any]:
    """Write data/train/<variant>; returns the metrics in it."""

    def save(aside: Path) -> None:
        result.prefix.save(aside / "prefix.safetensors")

    return write_results(paths.TRAIN / variant.name, model, result, train_size, save)


def leave(variant: Variant, model: PrefixModel, checkpoints: CheckpointFolder) -> None:
    """Leave the frozen model as it was, and of all checkpoints of a trained variant its own."""
    model.detach()
    if not location.is_temporary():
        # The last one stays until the sweep's report: DVC has yet to take the outputs over.
        kept = checkpoints.folder
        remove_checkpoints(kept.parent, variant.name, keep=kept.name)
