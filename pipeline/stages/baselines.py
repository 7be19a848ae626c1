"""Stage `baselines`: what variants are compared with, on the same splits."""

from pathlib import Path
from typing import Any

from pipeline import paths
from pipeline.config import Params
from pipeline.config.comparison import InContext
from pipeline.errors import PipelineError
from pipeline.evaluation.measure import measure_splits
from pipeline.frozen_model import load_tokenizer
from pipeline.prefix import PrefixConfig, PrefixModel, kv_prefix_from_text
from pipeline.records import read_text
from pipeline.task_type import load_for_task, task_of
from pipeline.tracking.evaluation_log import log_baseline
from pipeline.tracking.store import never_fatal


def run(params: Params, name: str) -> None:
    """Write data/baselines/<name>: metrics a split, and every prediction."""
    if name not in params.baselines:
        known = ", ".join(params.baselines) or "none"
        raise PipelineError(f"'{name}' is not under baselines of params.yaml; known: {known}")
    baseline = params.baselines[name]
    task = task_of(paths.TOKENIZED / "splits")
    model: Any
    model, _ = load_for_task(paths.MODEL, params.evaluate, task)
    tokenizer = load_tokenizer(paths.MODEL)
    tokens = 0
    if isinstance(baseline, InContext):
        text = read_text(Path(baseline.path))
        # A text's KV cache as a prefix gives the logits of the text in the context, and is
        # computed once for all examples.
        tokens = min(baseline.max_tokens, len(tokenizer.encode(text)))
        kv = kv_prefix_from_text(model, tokenizer, text, num_virtual_tokens=tokens)
        model = PrefixModel(model, PrefixConfig(num_virtual_tokens=tokens))
        model.load_kv_prefix(kv)
    measure_splits(
        model, tokenizer, params.evaluate, prefix_length=tokens, folder=paths.BASELINES / name
    )
    with never_fatal("log the baseline"):
        log_baseline(params, name)
