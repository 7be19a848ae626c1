"""Stage `evaluate_baseline`: one trained baseline on validation and the test splits."""

from pipeline.baselines.trained import OF_A_TRAINING, WEIGHTS
from pipeline.config import Params
from pipeline.evaluation.measure import measure_splits, time_merged
from pipeline.models.pretrained import PretrainedFolder
from pipeline.models.tokenizer import load_tokenizer
from pipeline.prefix.packed.backends import use_backend
from pipeline.storage.records import read_json
from pipeline.sweep.baselines import Baseline
from pipeline.tracking.evaluation_log import log_baseline
from pipeline.tracking.store import never_fatal
from pipeline.workspace import paths


def run(params: Params, baseline: Baseline) -> None:
    """Write data/evaluate/<baseline>: metrics a split, and every prediction."""
    use_backend(params.hardware.attention)
    folder = paths.TRAIN / baseline.name
    trained = read_json(folder / "metrics.json")
    definition = params.trained_baselines[baseline.family]
    pretrained = PretrainedFolder(paths.MODEL, params.evaluate, params.device_map)
    model, tokenizer = definition.load(folder / WEIGHTS, pretrained), load_tokenizer(paths.MODEL)
    max_tokens = params.memory.max_tokens_per_batch
    measure_splits(
        model,
        tokenizer,
        params.evaluate,
        folder=paths.EVALUATE / baseline.name,
        max_tokens=max_tokens,
        stored={key: trained[key] for key in OF_A_TRAINING if key in trained},
    )
    if definition.merge(model):
        time_merged(model, tokenizer, params.evaluate, baseline.name, max_tokens)
    with never_fatal("log the baseline"):
        log_baseline(params, baseline)
