"""Stage `baselines`: what variants are compared with, on the same splits."""

from pipeline.config import Params
from pipeline.errors import PipelineError
from pipeline.evaluation.measure import measure_splits
from pipeline.models.for_baseline import ForBaseline
from pipeline.models.prefixed import prefixed_model
from pipeline.sweep.baselines import Baseline
from pipeline.tracking.evaluation_log import log_baseline
from pipeline.tracking.store import never_fatal
from pipeline.workspace import paths


def run(params: Params, name: str) -> None:
    """Write data/evaluate/<name>: metrics a split, and every prediction."""
    if name not in params.baselines:
        known = ", ".join(params.baselines) or "none"
        raise PipelineError(f"'{name}' is not under baselines of params.yaml; known: {known}")
    definition = params.baselines[name]
    context = ForBaseline(params)
    kv = definition.kv_prefix(context)
    measure_splits(
        prefixed_model(context.frozen_model, kv),
        context.tokenizer,
        params.evaluate,
        folder=paths.EVALUATE / name,
        max_tokens=params.memory.max_tokens_per_batch,
        stored=definition.stored(kv),
    )
    with never_fatal("log the baseline"):
        log_baseline(params, Baseline(name))
