"""What a trial trains, and the same as it is measured: a prefix, or a trained baseline."""

import copy
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedModel

from benchmarks.quality.trials import Trial
from pipeline.baselines.trained import RateApart, TrainedBaseline
from pipeline.data.beginning import following
from pipeline.data.for_objective import load_for_objective
from pipeline.data.subset import subset
from pipeline.errors import PipelineError
from pipeline.models.for_variant import start_prefix
from pipeline.models.frozen import load_frozen_model
from pipeline.models.pretrained import PretrainedFolder
from pipeline.models.trainable import prefix_config
from pipeline.prefix import KVPrefix, PrefixModel
from pipeline.prefix.demonstrated import tokens_of
from pipeline.prefix.parameters.encoder import FlatEncoder
from pipeline.prefix.parameters.flat import Shapes
from pipeline.sweep.variants import Variant
from pipeline.training.left_out import NOTHING, LeftOut
from pipeline.training.loop import train_prefix
from pipeline.training.progress import TrainingResult
from pipeline.training.trained import TrainedWeights
from pipeline.workspace import paths
from pipeline.workspace.timings import LogStep


@dataclass(frozen=True)
class Trained:
    """A model with what its training came to, in evaluation mode, and the training."""

    model: PrefixModel
    result: TrainingResult
    parameters: int
    """Numbers that were trained."""


@contextmanager
def trained(trial: Trial, frozen: PreTrainedModel, log_step: LogStep) -> Iterator[Trained]:
    """Train; the frozen model is as it was before, afterwards."""
    torch.manual_seed(trial.seed)
    definition = trial.baseline
    training = (
        _prefix(trial, frozen, log_step)
        if definition is None
        else _baseline(trial, definition, frozen, log_step)
    )
    with training as found:
        yield found


@contextmanager
def _prefix(trial: Trial, frozen: PreTrainedModel, log_step: LogStep) -> Iterator[Trained]:
    assert trial.length is not None
    assert trial.start is not None
    params = trial.params.prefix
    model = PrefixModel(frozen, prefix_config(params, trial.length, ()))
    try:
        start = start_prefix(Variant(trial.length, trial.start, trial.seed), model)
        model.load_kv_prefix(start)
        parameters = _trainable(model)
        if trial.trained is not None:
            parameters = _train_alone(model, trial.trained)
        own = tokens_of(start.metadata) if params.leave_one_out else None
        left_out = LeftOut(
            len(start), params.token_dropout, params.num_frozen_tokens, trial.seed, own or {}
        )
        result = _train(trial, model, log_step, left_out)
        assert isinstance(result.prefix, KVPrefix)
        model.load_kv_prefix(result.prefix)
        yield Trained(model.eval(), result, parameters)
    finally:
        model.detach()


@contextmanager
def _baseline(
    trial: Trial, definition: TrainedBaseline, frozen: PreTrainedModel, log_step: LogStep
) -> Iterator[Trained]:
    """As the pipeline keeps it on the disk, and reads it again to be measured."""
    start = None
    if (beginning := definition.begins_from) is not None:
        start = partial(
            start_prefix, Variant(beginning.length, beginning.initialization, trial.seed)
        )
    pretrained = Loaded(paths.MODEL, trial.training, start_for=start, frozen=frozen)
    model = definition.adaptable(pretrained)
    parameters = _trainable(model)
    result = _train(trial, model, log_step, apart=definition.rate_apart(model))
    assert isinstance(result.prefix, TrainedWeights)
    result.prefix.restore(model)
    with tempfile.TemporaryDirectory(prefix="trial-") as name:
        definition.save(model, Path(name), pretrained)
        del model
        measured = definition.load(Path(name), pretrained)
    yield Trained(measured, result, parameters)


@dataclass(frozen=True)
class Loaded(PretrainedFolder):
    """The model of a folder as this process holds it already, which is not touched."""

    frozen: PreTrainedModel | None = None

    def load(self, dtype: str | None = None) -> PreTrainedModel:
        """A copy of its own for each caller; of a folder that is not held, what it holds."""
        if self.frozen is None:
            return load_frozen_model(self.folder, self.compute, self.device_map)
        model = copy.deepcopy(self.frozen)
        return model if dtype is None else model.to(getattr(torch, dtype))

    def at(self, folder: Path) -> "Loaded":
        """Another folder, loaded alike."""
        return replace(self, folder=folder, frozen=None)


def _train(
    trial: Trial,
    model: PrefixModel,
    log_step: LogStep,
    left_out: LeftOut = NOTHING,
    apart: RateApart | None = None,
) -> TrainingResult:
    splits = load_for_objective(paths.TOKENIZED / "splits", trial.training.objective)
    splits["train"] = subset(splits["train"], trial.train_size, trial.seed)
    train, validation = (following(split, model.begins_text) for split in splits.values())
    return train_prefix(
        model,
        train,
        validation,
        trial.training,
        trial.seed,
        log_step,
        validation_tokens=trial.params.memory.max_tokens_per_batch,
        left_out=left_out,
        apart=apart,
    )


def _trainable(model: PrefixModel) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _train_alone(model: PrefixModel, which: str) -> int:
    """Let keys or values alone take gradients; returns how many. The others stay as they start."""
    encoder = model.encoder
    if not isinstance(encoder, FlatEncoder):
        raise PipelineError(f"trained: {which} of a prefix that an MLP yields do not train alone")
    mask = _mask(encoder.shapes, which).to(model.device)
    encoder.embedding.register_hook(lambda gradient: gradient * mask)
    return len(encoder.embedding) * int(mask.sum())


def _mask(shapes: Shapes, which: str) -> torch.Tensor:
    """1 where a flat prefix holds `keys` (or `values`), `[width]` float32."""
    wanted = float(which == "keys")
    return torch.cat(
        [
            torch.full((heads * size,), share)
            for (kh, kd), (vh, vd) in shapes
            for heads, size, share in ((kh, kd, wanted), (vh, vd, 1 - wanted))
        ]
    )
