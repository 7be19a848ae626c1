"""Stage `train_baseline`: another way to adapt the model, by the training of the variants."""

from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.baselines.trained import WEIGHTS, TrainedBaseline
from pipeline.config import Params
from pipeline.data.beginning import following
from pipeline.data.for_objective import load_for_objective
from pipeline.data.subset import subset
from pipeline.distributed.ranks import ALONE, Ranks
from pipeline.errors import DivergedError, PipelineError
from pipeline.models.for_variant import timed_start
from pipeline.models.pretrained import PretrainedFolder
from pipeline.prefix import KVPrefix, PrefixModel
from pipeline.prefix.packed.backends import use_backend
from pipeline.sweep.baselines import Baseline
from pipeline.sweep.variants import Variant
from pipeline.training.divergence import in_section, or_lower
from pipeline.training.loop import train_prefix
from pipeline.training.results import write_results
from pipeline.training.trained import TrainedWeights
from pipeline.workspace import paths
from pipeline.workspace.timings import TrainingClock


def run(params: Params, baseline: Baseline, ranks: Ranks = ALONE) -> None:
    """Write data/train/<baseline>: the weights, the loss history, and what training came to.

    MLflow gets it all from these files when the baseline is measured. Of several processes, whose
    `ranks` say which one this is, the first writes.
    """
    use_backend(params.hardware.attention)
    if baseline.family not in params.trained_baselines or baseline.seed is None:
        known = ", ".join(params.trained_baselines) or "none"
        raise PipelineError(
            f"'{baseline.family}' is not under trained_baselines of params.yaml; known: {known}"
        )
    definition = params.trained_baselines[baseline.family]
    training = definition.training(params.train.of_weights())
    splits = load_for_objective(paths.TOKENIZED / "splits", training.objective)
    splits["train"] = subset(splits["train"], baseline.train_size, baseline.seed)
    torch.manual_seed(baseline.seed)
    start = _start_of(definition, baseline, ranks)
    pretrained = PretrainedFolder(paths.MODEL, training, params.device_map, start)
    model = definition.adaptable(pretrained)
    train, validation = (
        following(splits[name], model.begins_text) for name in ("train", "validation")
    )
    clock = TrainingClock(lambda step, metrics: None)
    try:
        result = train_prefix(
            model,
            train,
            validation,
            training,
            baseline.seed,
            clock.log_step,
            validation_tokens=params.memory.max_tokens_per_batch,
            ranks=ranks,
            apart=definition.rate_apart(model),
        )
    except DivergedError as error:
        raise _of_definition(error, baseline.family, definition) from error
    if not ranks.is_first:
        return
    seconds = None if start is None else start.seconds
    clock.record(baseline.name, **result.search_times, start_seconds=seconds)
    assert isinstance(result.prefix, TrainedWeights), "what is kept is more than a prefix"
    result.prefix.restore(model)

    def save(aside: Path) -> None:
        definition.save(model, aside / WEIGHTS, pretrained)

    write_results(paths.TRAIN / baseline.name, model, result, len(train), save)


def _of_definition(error: DivergedError, name: str, definition: TrainedBaseline) -> DivergedError:
    """An error of a training, by the keys of the definition, which gives the rates."""
    own = [
        f"trained_baselines.{name}.{key}"
        for key in type(definition).model_fields
        if key.endswith("learning_rate")
    ]
    search = f"trained_baselines.{name}.learning_rate_search"
    renamed = {"train.learning_rate_search": search, "train.learning_rate": " or ".join(own)}
    told = in_section(error, renamed)
    # A search is of the first alone.
    return or_lower(told, own[1:]) if definition.learning_rate == "auto" else told


@dataclass
class _Start:
    """The prefix that a baseline's own starts from, the first process's in all of them.

    `seconds` are those that it took to make, as `timed_start` has them, once it is asked for.
    """

    variant: Variant
    folder: Path
    ranks: Ranks
    seconds: float | None = None

    def __call__(self, model: PrefixModel) -> KVPrefix:
        start, self.seconds = timed_start(self.variant, model, self.folder)
        made: KVPrefix = self.ranks.from_first(start)
        return made


def _start_of(definition: TrainedBaseline, baseline: Baseline, ranks: Ranks) -> _Start | None:
    """What a baseline's own prefix starts from; None for one that has none to train."""
    if definition.begins_from is None or baseline.seed is None:
        return None
    initialization, length = definition.begins_from
    variant = Variant(length, initialization, baseline.seed, baseline.train_size)
    folder = paths.BASELINE_START / baseline.family
    return _Start(variant, folder, ranks)
