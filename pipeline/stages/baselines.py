"""Stage `baselines`: what variants are compared with, on the same splits."""

from collections.abc import Iterator
from itertools import chain

from datasets import Dataset

from pipeline.baselines.untrained import Before
from pipeline.config import Params
from pipeline.data.rewritten import tokens_added
from pipeline.data.splits import load_split
from pipeline.errors import PipelineError
from pipeline.evaluation.measure import measure_splits
from pipeline.models.for_baseline import ForBaseline
from pipeline.models.prefixed import prefixed_model
from pipeline.prefix.packed.backends import use_backend
from pipeline.sweep.baselines import Baseline
from pipeline.tracking.evaluation_log import log_baseline
from pipeline.tracking.store import never_fatal
from pipeline.training.validation import target_loss_of
from pipeline.workspace import paths


def run(params: Params, name: str) -> None:
    """Write data/evaluate/<name>: metrics a split, and every prediction."""
    use_backend(params.hardware.attention)
    if name not in params.baselines:
        known = ", ".join(params.baselines) or "none"
        raise PipelineError(f"'{name}' is not under baselines of params.yaml; known: {known}")
    definition = params.baselines[name]
    context = ForBaseline(params)
    before = _best(definition.choices(context), context)
    model = prefixed_model(context.frozen_model, before.kv, before.prefix_always_visible)
    measure_splits(
        model,
        context.tokenizer,
        params.evaluate,
        folder=paths.EVALUATE / name,
        max_tokens=params.memory.max_tokens_per_batch,
        stored={**definition.stored(before.kv), **before.facts},
        follow=before.follow,
        until=before.until,
    )
    model.detach()
    with never_fatal("log the baseline"):
        log_baseline(params, Baseline(name))


def _best(choices: Iterator[Before], context: ForBaseline) -> Before:
    """The choice with the lowest loss on validation; one alone is not measured."""
    best = next(choices)
    second = next(choices, None)
    if second is None:
        return best
    validation = load_split(paths.TOKENIZED / "splits", "validation")
    lowest = _loss(best, validation, context)
    for choice in chain([second], choices):
        loss = _loss(choice, validation, context)
        if loss < lowest:
            best, lowest = choice, loss
    return best


def _loss(before: Before, validation: Dataset, context: ForBaseline) -> float:
    model = prefixed_model(context.frozen_model, before.kv, before.prefix_always_visible).eval()
    split = validation if before.follow is None else before.follow(validation)
    loss = target_loss_of(model, split, context.params.memory.max_tokens_per_batch)
    model.detach()
    facts = ", ".join(f"{key} {value}" for key, value in before.facts.items())
    before_input = model.prefix_length or round(tokens_added(validation, split) / len(split))
    print(f"{facts}: {before_input} tokens of context, validation loss {loss:.4f}")
    return loss
