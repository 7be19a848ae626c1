"""From an initialisation of params.yaml to the prefix that a variant starts from.

An initialisation is a class of `pipeline.config.initializations`, the tokens that `pipeline.corpus`
takes for it, whose KV cache the stage `kv_prefix` computes once for all lengths, and what a variant
makes of that when it trains, in the table below (by default, its first p entries).
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import paths
from pipeline.config import Params
from pipeline.config.initializations import (
    Initialization,
    MostAttended,
    PrefixFile,
    Random,
    TrainedVariant,
    Vocabulary,
    Zero,
)
from pipeline.corpus import Corpus
from pipeline.variants import Variant

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from pipeline.prefix import KVPrefix, PrefixModel


def prefill(model: "PreTrainedModel", corpus: Corpus) -> "KVPrefix":
    """The keys and values that the frozen model computes of a corpus, float32."""
    from pipeline.prefix import kv_prefix_from_source_tokens, kv_prefix_from_tokens

    if corpus.written is None:
        return kv_prefix_from_tokens(model, corpus.tokens)
    return kv_prefix_from_source_tokens(model, corpus.tokens, corpus.written)


def prefix_of_file(definition: Initialization, params: Params) -> "KVPrefix | None":
    """The prefix that an initialisation names as a file or a PEFT adapter folder; None for others.

    Raises PrefixError when there is none, or it is not of this model.
    """
    if not isinstance(definition, PrefixFile | TrainedVariant):
        return None
    from pipeline.prefix import KVPrefix

    path = Path(definition.path)
    if not path.is_dir():
        return KVPrefix.load(path)
    from pipeline.config.training import Compute
    from pipeline.prefix.peft_format import load_adapter
    from pipeline.prefix.shapes import adapter_shapes
    from pipeline.task_type import TaskType, load_for_task

    task = TaskType(params.task.type, ("0", "1"))
    model, _ = load_for_task(paths.MODEL, Compute(), task)
    return load_adapter(path, adapter_shapes(model))


def start_prefix(params: Params, variant: Variant, model: "PrefixModel") -> "KVPrefix":
    """The prefix that a variant's training starts from, of the variant's length, for all layers.

    Raises PipelineError or PrefixError when what it is made from is missing or does not fit.
    """
    definition = params.initializations[variant.initialization]
    start = _STARTS.get(type(definition), _first_of_cache)
    return start(definition, params, variant, model)


def _first_of_cache(
    _: Initialization, params: Params, variant: Variant, model: "PrefixModel"
) -> "KVPrefix":
    return _cached(variant)[: variant.length]


def _random(definition: Random, _: Params, variant: Variant, model: "PrefixModel") -> "KVPrefix":
    from pipeline.prefix import random_kv_prefix

    return random_kv_prefix(model.kv_shapes, variant.length, definition.scale, _generator(variant))


def _zero(_: Zero, __: Params, variant: Variant, model: "PrefixModel") -> "KVPrefix":
    from pipeline.prefix.initializers import zero_kv_prefix

    return zero_kv_prefix(model.kv_shapes, variant.length)


def _vocabulary(
    definition: Vocabulary, _: Params, variant: Variant, model: "PrefixModel"
) -> "KVPrefix":
    from pipeline.frozen_model import load_tokenizer
    from pipeline.prefix.initializers import kv_prefix_from_words

    tokenizer = load_tokenizer(paths.MODEL)
    words = definition.words
    generator = _generator(variant)
    return kv_prefix_from_words(model.frozen_model, tokenizer, words, variant.length, generator)


def _most_attended(
    definition: MostAttended, params: Params, variant: Variant, model: "PrefixModel"
) -> "KVPrefix":
    from pipeline.prefix import PrefixConfig, PrefixModel
    from pipeline.prefix.attended import most_attended
    from pipeline.tokenized import load_split

    corpus = _cached(variant)
    rows = load_split(paths.TOKENIZED / "splits", "train").select_columns(
        ["input_ids", "target_start"]
    )
    inputs = [
        row["input_ids"][: row["target_start"]]
        for row in rows.select(range(min(definition.inputs, len(rows))))
    ]
    whole = PrefixModel(model.frozen_model, PrefixConfig(num_virtual_tokens=len(corpus))).eval()
    whole.load_kv_prefix(corpus)
    kv = most_attended(whole, corpus, variant.length, inputs)
    whole.detach()
    return kv


def _stretched(
    _: PrefixFile | TrainedVariant, __: Params, variant: Variant, model: "PrefixModel"
) -> "KVPrefix":
    from pipeline.prefix.initializers import stretched_kv_prefix

    return stretched_kv_prefix(_cached(variant), variant.length)


_STARTS: dict[type, Callable[[Any, Params, Variant, Any], "KVPrefix"]] = {
    Random: _random,
    Zero: _zero,
    Vocabulary: _vocabulary,
    MostAttended: _most_attended,
    PrefixFile: _stretched,
    TrainedVariant: _stretched,
}


def _cached(variant: Variant) -> "KVPrefix":
    from pipeline.prefix import KVPrefix

    return KVPrefix.load(paths.KV_PREFIX / variant.initialization / "prefix.safetensors")


def _generator(variant: Variant) -> "torch.Generator":
    import torch

    return torch.Generator().manual_seed(variant.seed)
