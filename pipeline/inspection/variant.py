"""A variant of the sweep, or an imported adapter, made ready to be looked at."""

from collections.abc import Callable

from transformers import PreTrainedModel

from pipeline.config import Params
from pipeline.data.splits import load_split
from pipeline.data.task_type import task_of
from pipeline.inspection.inputs import spread_evenly
from pipeline.inspection.looking import Prefix
from pipeline.inspection.origins import words_of_start
from pipeline.inspection.words import words_of
from pipeline.models.definition import read_definition
from pipeline.models.for_variant import trained_start
from pipeline.models.prefixed import prefixed_model
from pipeline.models.shared import load_for_task
from pipeline.models.tokenizer import load_tokenizer
from pipeline.models.trainable import prefix_config
from pipeline.prefix import KVPrefix, PrefixModel
from pipeline.prefix.packed.backends import use_backend
from pipeline.sweep.grid import sweep
from pipeline.sweep.variants import Variant
from pipeline.workspace import paths

Loader = Callable[[PreTrainedModel], KVPrefix]
"""The prefix, for the frozen model that it is of."""


def prefix_of(params: Params, name: str, load: Loader, split: str, most: int | None) -> Prefix:
    """A prefix with its start and up to `most` examples of a split; none for None.

    The frozen model is in the precision and on the device of `train`, so that the start is the one
    that training went out from. Raises PipelineError or PrefixError for what is missing, or of
    another model.
    """
    use_backend(params.hardware.attention)
    variant = next((each for each in sweep(params) if each.name == name), None)
    splits = paths.TOKENIZED / "splits"
    seed = 0 if variant is None else variant.seed
    frozen, new = load_for_task(paths.MODEL, params.train, task_of(splits), seed, params.device_map)
    tokenizer = load_tokenizer(paths.MODEL)
    model = prefixed_model(frozen, load(frozen), params.prefix.prefix_always_visible)
    start, origin, words = None, "trained elsewhere", None
    if variant is not None:
        start = _start(params, variant, frozen, new)
        origin, ids = words_of_start(params, variant, frozen)
        words = None if ids is None else words_of(tokenizer, ids)
    examples = []
    if most is not None:
        examples = spread_evenly(load_split(splits, split), most, model.begins_text)
    return Prefix(name, model, tokenizer, start, origin, words, split, examples)


def _start(
    params: Params, variant: Variant, frozen: PreTrainedModel, new: tuple[str, ...]
) -> KVPrefix | None:
    """The prefix before training, of the layers and parts that were trained."""
    model = PrefixModel(frozen, prefix_config(params.prefix, variant.length, new))
    try:
        definition = read_definition(paths.KV_PREFIX / variant.initialization)
        model.load_kv_prefix(definition.start(trained_start(variant, model)))
        return model.kv_prefix()
    finally:
        model.detach()
