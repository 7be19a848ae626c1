"""Stage `evaluate`: one trained variant on validation and the test splits."""

from pipeline.config import Params
from pipeline.data.task_type import task_of
from pipeline.evaluation.measure import measure_splits
from pipeline.models.prefixed import prefixed_model
from pipeline.models.shared import load_for_task
from pipeline.models.tokenizer import load_tokenizer
from pipeline.prefix import KVPrefix
from pipeline.prefix.packed.backends import use_backend
from pipeline.sweep.variants import Variant
from pipeline.tracking.evaluation_log import log_variant
from pipeline.tracking.store import never_fatal
from pipeline.workspace import paths


def run(params: Params, variant: Variant) -> None:
    """Write data/evaluate/<variant>: metrics a split, and every prediction."""
    use_backend(params.hardware.attention)
    task = task_of(paths.TOKENIZED / "splits")
    frozen, _ = load_for_task(paths.MODEL, params.evaluate, task, variant.seed, params.device_map)
    kv = KVPrefix.load(paths.TRAIN / variant.name / "prefix.safetensors")
    model = prefixed_model(frozen, kv, params.prefix.prefix_always_visible)
    measure_splits(
        model,
        load_tokenizer(paths.MODEL),
        params.evaluate,
        folder=paths.EVALUATE / variant.name,
        max_tokens=params.memory.max_tokens_per_batch,
    )
    model.detach()
    with never_fatal("log the evaluation"):
        log_variant(params, variant)
