"""Stage `train` of several variants at once, on one frozen model."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from pipeline.config import Params
from pipeline.config.train import TrainParams
from pipeline.data.beginning import following
from pipeline.data.task_type import task_of
from pipeline.errors import PipelineError, StoppedError
from pipeline.errors.memory import is_out_of_memory
from pipeline.models.for_variant import timed_start
from pipeline.models.shared import load_for_task
from pipeline.models.trainable import prefix_config
from pipeline.prefix import PrefixError, PrefixModel
from pipeline.prefix.packed.backends import use_backend
from pipeline.stages import train
from pipeline.sweep.variants import Variant
from pipeline.tracking.training_run import TrainingRun
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.left_out import LeftOut
from pipeline.training.together import train_all
from pipeline.training.training import Training
from pipeline.workspace import paths
from pipeline.workspace.timings import TrainingClock


def run(params: Params, variants: Sequence[Variant]) -> None:
    """Write data/train/<variant> of each as `train.run` does, to the rounding of the dtype.

    Each has its checkpoints and its run in MLflow as alone: what was begun together can go on
    alone, and the reverse. Where packed rows do not serve the model, they train one after another.

    Raises:
        StoppedError: after a signal, with a sentence of each that it stopped.
        PipelineError: at the end, with a sentence of each variant that failed; the others are
            written.
    """
    variants = list(dict.fromkeys(variants))
    failed: dict[str, PipelineError | PrefixError] = {}
    reason = _why_alone(params, variants)
    if reason is None:
        use_backend(params.hardware.attention)
        task = task_of(paths.TOKENIZED / "splits")
        seed, places = variants[0].seed, params.device_map
        frozen, new = load_for_task(paths.MODEL, params.train, task, seed, places)
        models: dict[Variant, PrefixModel] = {}
        for variant in variants:
            with _told(failed, variant):
                models[variant] = _model(params, variant, frozen, new)
        variants = [*models]
        reason = _why_not_packed(models.values())
        if reason is None:
            group = []
            for variant, model in models.items():
                with _told(failed, variant):
                    group.append(_started(params, variant, model))
            _train(params, group, failed)
        del frozen, models
    if reason is not None:
        # No start was made so far: each makes its own.
        print(f"{reason}: these variants train one after another")
        for variant in variants:
            try:
                with _told(failed, variant):
                    train.run(params, variant)
            except StoppedError as error:
                raise _all_of({**failed, variant.name: error}) from error
    if failed:
        raise _all_of(failed)


@contextmanager
def _told(failed: dict[str, PipelineError | PrefixError], variant: Variant) -> Iterator[None]:
    """Keep a variant's error for the end; what stops it stops all."""
    try:
        yield
    except StoppedError:
        raise
    except (PipelineError, PrefixError) as error:
        failed[variant.name] = error


def _why_alone(params: Params, variants: Sequence[Variant]) -> str | None:
    """Why these params train one variant at a time, whatever the model; None where they do not."""
    if any(_settings(params, variant).learning_rate == "auto" for variant in variants):
        return "train.learning_rate: auto searches the rate of one variant at a time"
    if params.prefix.distractors.count:
        return "prefix.distractors stand beside one variant's prefix at a time"
    return None


@dataclass
class _Member:
    """One variant of the group: its model with the start, and where it keeps its checkpoints."""

    variant: Variant
    model: PrefixModel
    checkpoints: CheckpointFolder
    left_out: LeftOut
    start_seconds: float | None


def _model(
    params: Params, variant: Variant, frozen: PreTrainedModel, new: tuple[str, ...]
) -> PrefixModel:
    # An encoder draws its first weights: those that it would draw alone.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(variant.seed)
        return PrefixModel(frozen, prefix_config(params.prefix, variant.length, new))


def _started(params: Params, variant: Variant, model: PrefixModel) -> _Member:
    start, seconds = timed_start(variant, model)
    model.load_kv_prefix(start)
    checkpoints = train.checkpoints_of(params, variant, start)
    left_out = train.left_out_of(params, variant, start)
    return _Member(variant, model, checkpoints, left_out, seconds)


def _settings(params: Params, variant: Variant) -> TrainParams:
    return params.train.at(variant.learning_rate)


def _why_not_packed(models: Iterable[PrefixModel]) -> str | None:
    """Why not even the shortest example of any variant is packed; None where one is."""
    reasons = [model.why_not_packed(tokens=1) for model in models]
    return None if not reasons or None in reasons else reasons[0]


class _Run:
    """One variant while it trains: its lock, its run in MLflow, its clock and its outputs."""

    def __init__(self, params: Params, member: _Member) -> None:
        self._params, self._member = params, member
        self._held = ExitStack()

    def lock(self) -> None:
        """Hold the variant for this process."""
        self._held.enter_context(self._member.checkpoints.locked())

    def begin(self) -> Training:
        """Open its run in MLflow, and give its training."""
        variant, model, params = self._member.variant, self._member.model, self._params
        splits = train.read_splits(variant, params.train.objective)
        digest = self._member.checkpoints.digest
        self._tracking = self._held.enter_context(TrainingRun(params, variant, digest, splits))
        self._clock = TrainingClock(self._tracking.log_step)
        examples, validation = (following(split, model.begins_text) for split in splits.values())
        self._train_size = len(examples)
        self.training = Training(
            model,
            examples,
            validation,
            _settings(params, variant),
            variant.seed,
            self._clock.log_step,
            self._member.checkpoints,
            params.memory.max_tokens_per_batch,
            say=lambda sentence: print(f"{variant.name}: {sentence}"),
            left_out=self._member.left_out,
        )
        return self.training

    def finish(self) -> None:
        """Write what the training came to, and end all that is held."""
        variant, model = self._member.variant, self._member.model
        metrics = train.write_variant(variant, model, self.training.result, self._train_size)
        self._clock.record(
            variant.name, self.training.seconds, start_seconds=self._member.start_seconds
        )
        self._tracking.finish(paths.TRAIN / variant.name, metrics)
        self._held.close()
        train.leave(variant, model, self._member.checkpoints)

    def fail(self, error: BaseException) -> None:
        """End all that is held with an error."""
        self._held.__exit__(type(error), error, error.__traceback__)


def _train(
    params: Params, group: Sequence[_Member], failed: dict[str, PipelineError | PrefixError]
) -> None:
    # In one order everywhere, so that no two groups wait for each other; and all of them before
    # the first run is opened, which ends the runs of trainings that no process holds.
    members = sorted(group, key=lambda member: member.checkpoints.folder.name)
    runs = [_Run(params, member) for member in members]
    of_training: dict[int, tuple[Variant, _Run]] = {}

    def ended(training: Training, error: PipelineError | None) -> None:
        variant, own = of_training[id(training)]
        if error is None:
            own.finish()
        else:
            failed[variant.name] = error = train.as_listed(variant, error)
            own.fail(error)

    try:
        for own in runs:
            own.lock()
        for member, own in zip(members, runs, strict=True):
            of_training[id(own.begin())] = member.variant, own
        trainings = [own.training for own in runs]
        train_all(trainings, ended, params.memory.max_tokens_together)
    except BaseException as error:
        # What ended before holds nothing any more; one that fails to end leaves no other held.
        with ExitStack() as stack:
            for own in runs:
                stack.callback(own.fail, error)
        if is_out_of_memory(error):
            raise PipelineError(
                f"out of memory with {len(runs)} variants together; lower "
                "memory.max_tokens_together, which runs nothing else again, or train fewer together"
            ) from error
        raise


def _all_of(failed: dict[str, PipelineError | PrefixError]) -> PipelineError:
    """One error of all: stopped where one was, since the others are told of again."""
    sentences = "; ".join(f"{name}: {error}" for name, error in failed.items())
    for error in failed.values():
        if isinstance(error, StoppedError):
            return StoppedError(sentences, error.exit_code - 128)
    return PipelineError(sentences)
