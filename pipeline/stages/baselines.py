"""Stage `baselines`: what variants are compared with, on the same splits."""

from pathlib import Path

from transformers import PreTrainedModel

from pipeline.adapters.reading import adapter_storage
from pipeline.config import Params
from pipeline.config.baselines import Adapter, InContext
from pipeline.data.splits import load_split
from pipeline.data.task_type import task_of
from pipeline.errors import PipelineError
from pipeline.evaluation.measure import in_context_storage, measure_splits
from pipeline.models.for_task import load_for_task
from pipeline.models.prefixed import prefixed_model
from pipeline.models.tokenizer import load_tokenizer
from pipeline.prefix import PrefixModel, kv_prefix_from_text
from pipeline.prefix.architecture.context import context_of
from pipeline.prefix.architecture.shapes import kv_shapes
from pipeline.prefix.files.peft_format import load_adapter
from pipeline.storage.records import read_text
from pipeline.sweep.baselines import Baseline
from pipeline.tracking.evaluation_log import log_baseline
from pipeline.tracking.store import never_fatal
from pipeline.workspace import paths


def run(params: Params, name: str) -> None:
    """Write data/baselines/<name>: metrics a split, and every prediction."""
    if name not in params.baselines:
        known = ", ".join(params.baselines) or "none"
        raise PipelineError(f"'{name}' is not under baselines of params.yaml; known: {known}")
    baseline = params.baselines[name]
    task = task_of(paths.TOKENIZED / "splits")
    frozen, _ = load_for_task(paths.MODEL, params.evaluate, task)
    model = PrefixModel(frozen)
    tokenizer = load_tokenizer(paths.MODEL)
    if isinstance(baseline, InContext):
        text = read_text(Path(baseline.path))
        # A text's KV cache as a prefix gives the logits of the text in the context, and is
        # computed once for all examples.
        most = _room(params, frozen) if baseline.max_tokens is None else baseline.max_tokens
        tokens = min(most, len(tokenizer.encode(text)))
        kv = kv_prefix_from_text(frozen, tokenizer, text, num_virtual_tokens=tokens)
        model = prefixed_model(frozen, kv)
    stored = in_context_storage(model.prefix_length)
    if isinstance(baseline, Adapter):
        kv = load_adapter(baseline.path, kv_shapes(frozen))
        model, stored = prefixed_model(frozen, kv), adapter_storage(Path(baseline.path), kv)
    measure_splits(
        model,
        tokenizer,
        params.evaluate,
        folder=paths.BASELINES / name,
        stored=stored,
    )
    with never_fatal("log the baseline"):
        log_baseline(params, Baseline(name))


def _room(params: Params, model: PreTrainedModel) -> int:
    """The tokens of context that every example measured leaves free."""
    context = context_of(model)
    if context is None:
        raise PipelineError(
            "baselines: this model names no limit of its context, so that max_tokens: null is "
            "without end; give a number"
        )
    longest = 0
    for name in params.evaluate.splits:
        split = load_split(paths.TOKENIZED / "splits", name)
        whole = max(map(len, split["input_ids"]))
        generated = max(split["target_start"]) + params.evaluate.max_new_tokens
        longest = max(longest, whole, generated)
    if longest >= context:
        raise PipelineError(
            f"baselines: the longest example takes {longest} of the model's {context} positions "
            "and leaves no room for a text; lower evaluate.max_new_tokens or task.max_length"
        )
    return context - longest
