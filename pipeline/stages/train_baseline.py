"""Stage `train_baseline`: another way to adapt the model, by the training of the variants."""

from pathlib import Path

import torch

from pipeline.baselines.trained import WEIGHTS
from pipeline.config import Params
from pipeline.data.for_objective import load_for_objective
from pipeline.data.subset import subset
from pipeline.distributed.ranks import ALONE, Ranks
from pipeline.errors import PipelineError
from pipeline.models.pretrained import PretrainedFolder
from pipeline.prefix import PrefixModel
from pipeline.prefix.packed.backends import use_backend
from pipeline.sweep.baselines import Baseline
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
    train = subset(splits["train"], baseline.train_size, baseline.seed)
    torch.manual_seed(baseline.seed)
    pretrained = PretrainedFolder(paths.MODEL, training, params.device_map)
    model = PrefixModel(definition.adaptable(pretrained))
    clock = TrainingClock(lambda step, metrics: None)
    result = train_prefix(
        model,
        train,
        splits["validation"],
        training,
        baseline.seed,
        clock.log_step,
        validation_tokens=params.memory.max_tokens_per_batch,
        ranks=ranks,
    )
    if not ranks.is_first:
        return
    clock.record(baseline.name)
    assert isinstance(result.prefix, TrainedWeights), "the model has no prefix"
    result.prefix.restore(model)

    def save(aside: Path) -> None:
        definition.save(model.frozen_model, aside / WEIGHTS, pretrained)

    write_results(paths.TRAIN / baseline.name, model, result, len(train), save)
