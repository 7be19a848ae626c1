"""Stage `train`: one variant's prefix against the frozen model."""

from pathlib import Path

import torch

from pipeline.config import Params
from pipeline.data.beginning import following
from pipeline.data.splits import load_split
from pipeline.data.subset import subset
from pipeline.data.task_type import task_of
from pipeline.distributed.ranks import ALONE, Ranks
from pipeline.distributed.sharding import shard_frozen_model
from pipeline.models.for_variant import start_prefix
from pipeline.models.frozen import resolve_device
from pipeline.models.shared import load_for_task
from pipeline.models.trainable import prefix_config
from pipeline.prefix import PrefixModel
from pipeline.prefix.packed.backends import use_backend
from pipeline.sweep.variants import Variant
from pipeline.tracking.training_run import TrainingRun
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.identity import training_digest
from pipeline.training.loop import train_prefix
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
    splits = {
        name: load_split(paths.TOKENIZED / "splits", name) for name in ("train", "validation")
    }
    task = task_of(paths.TOKENIZED / "splits")
    # What projects a prefix is drawn with it; a process begins with random numbers of its own.
    torch.manual_seed(variant.seed)
    sharded = params.hardware.shard_frozen_model and ranks.size > 1
    # A model that is to be sharded may be too large for the device.
    compute = params.train.model_copy(update={"device": "cpu"} if sharded else {})
    frozen, new = load_for_task(paths.MODEL, compute, task, variant.seed, params.device_map)
    config = prefix_config(params.prefix, variant.length, new)
    model = PrefixModel(frozen, config)
    start = start_prefix(variant, model)
    model.load_kv_prefix(start)
    if sharded:
        shard_frozen_model(model, ranks, resolve_device(params.train.device))
    splits["train"] = subset(splits["train"], variant.train_size, variant.seed)
    train, validation = (following(split, model.begins_text) for split in splits.values())
    training = (model, train, validation, params.train, variant.seed)
    tokens = params.memory.max_tokens_per_batch
    if not ranks.is_first:
        ranks.wait_for_first("holds the variant")
        train_prefix(*training, lambda step, metrics: None, None, tokens, ranks)
        return
    digest = training_digest(params, variant, start)
    root = location.home() / paths.CHECKPOINTS
    folder = root / checkpoint_name(variant.name, digest)
    checkpoints = CheckpointFolder(folder, digest, params.checkpoints.every_steps)
    with checkpoints.locked(), TrainingRun(params, variant, digest, splits) as tracking:
        ranks.wait_for_first("holds the variant")
        clock = TrainingClock(tracking.log_step)
        result = train_prefix(*training, clock.log_step, checkpoints, tokens, ranks)

        def save(aside: Path) -> None:
            result.prefix.save(aside / "prefix.safetensors")

        folder = paths.TRAIN / variant.name
        metrics = write_results(folder, model, result, len(train), save)
        clock.record(variant.name)
        tracking.finish(folder, metrics)
    model.detach()
    if not location.is_temporary():
        # The last one stays until the sweep's report: DVC has yet to take the outputs over.
        remove_checkpoints(root, variant.name, keep=checkpoints.folder.name)
