"""From an initialisation of params.yaml to the prefix that a variant starts from.

An initialisation is a class of `pipeline.config.initializations` and a line in one or both of the
tables below: the tokens whose KV cache the stage `kv_prefix` computes once for all lengths, and
what a variant makes of it when it trains (by default, its first p entries).
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import paths
from pipeline.config import Params
from pipeline.config.initializations import (
    FROM_FILE,
    CorpusChunks,
    CorpusText,
    Demonstrations,
    Initialization,
    MostAttended,
    PrefixFile,
    Random,
    TrainedVariant,
    Vocabulary,
    Zero,
)
from pipeline.errors import PipelineError
from pipeline.records import read_jsonl
from pipeline.rendering import Renderer
from pipeline.variants import Variant

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pipeline.prefix import KVPrefix, PrefixModel


@dataclass(frozen=True)
class Corpus:
    """A text, and which of its tokens are prefilled into a KV cache.

    `written` is what an encoder-decoder's decoder is given; None for `tokens` too.
    """

    text: str
    tokens: list[int]
    written: list[int] | None = None


def corpus_of(name: str, definition: Initialization, params: Params) -> Corpus | None:
    """What the stage `kv_prefix` prefills for an initialisation; None for one without a text.

    Raises PipelineError when its file is missing, empty, not UTF-8, or too short.
    """
    from pipeline.frozen_model import load_tokenizer
    from pipeline.prefix.initializers import spaced_chunks

    if not isinstance(definition, (*FROM_FILE, Demonstrations)):
        return None
    wanted = params.kv_prefix.max_length
    tokenizer = load_tokenizer(paths.MODEL)
    match definition:
        case Demonstrations():
            text = _demonstrations(definition, Renderer(params.task, tokenizer))
            is_chat = definition.template is None and params.task.use_chat_template
            tokens = tokenizer.encode(text, add_special_tokens=not is_chat)
            if params.task.type == "seq2seq_lm" and definition.template is None:
                return _read_and_written(name, definition, params, tokenizer)
        case CorpusText():
            text = _file_text(name, definition.path)
            if definition.use_chat_template:
                text = _as_message(name, text, tokenizer)
            special = not definition.use_chat_template
            tokens = tokenizer.encode(text, add_special_tokens=special)[definition.skip_tokens :]
        case CorpusChunks():
            text = _file_text(name, definition.path)
            whole = tokenizer.encode(text, add_special_tokens=False)
            tokens = spaced_chunks(whole, wanted, definition.chunk_tokens)
        case MostAttended():
            text = _file_text(name, definition.path)
            tokens = tokenizer.encode(text)[: definition.corpus_tokens]
            return Corpus(text, tokens)
    if len(tokens) < wanted:
        raise PipelineError(
            f"initializations.{name}: its text has {len(tokens)} tokens, fewer than "
            f"kv_prefix.max_length = {wanted}; use a longer text or lower kv_prefix.max_length"
        )
    return Corpus(text, tokens[:wanted])


def _read_and_written(
    name: str,
    definition: Demonstrations,
    params: Params,
    tokenizer: "PreTrainedTokenizerBase",
) -> Corpus:
    """The inputs of the demonstrations for the encoder, their targets for the decoder."""
    rows = _shuffled(definition)[: definition.max_examples]
    pairs = [Renderer(params.task, tokenizer).texts(row) for row in rows]
    wanted = params.kv_prefix.max_length
    sides = [" ".join(pair[side] for pair in pairs) for side in (0, 1)]
    read, written = (tokenizer.encode(side) for side in sides)
    if min(len(read), len(written)) < wanted:
        raise PipelineError(
            f"initializations.{name}: its inputs have {len(read)} tokens and its targets "
            f"{len(written)}, fewer than kv_prefix.max_length = {wanted}; raise max_examples or "
            "lower kv_prefix.max_length"
        )
    return Corpus("\n\n".join(sides), read[:wanted], written[:wanted])


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


def _demonstrations(definition: Demonstrations, renderer: Renderer) -> str:
    rows = _shuffled(definition)
    return renderer.demonstrations(rows[: definition.max_examples], definition.template)


def _shuffled(definition: Demonstrations) -> list[dict[str, Any]]:
    rows = read_jsonl(Path(definition.path))
    # A seeded order, so that neighbouring rows of one topic do not fill a short prefix.
    random.Random(definition.seed).shuffle(rows)
    return rows


def _as_message(name: str, text: str, tokenizer: "PreTrainedTokenizerBase") -> str:
    if tokenizer.chat_template is None:
        raise PipelineError(
            f"initializations.{name}.use_chat_template: the model's tokenizer has no chat "
            "template; set it to false"
        )
    turns = [{"role": "user", "content": text}]
    return str(tokenizer.apply_chat_template(turns, tokenize=False))


def _file_text(name: str, path: str) -> str:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise PipelineError(
            f"initializations.{name}.path: there is no file '{path}'; name an existing text file"
        ) from error
    except UnicodeDecodeError as error:
        raise PipelineError(
            f"initializations.{name}.path: '{path}' is not UTF-8 text (byte {error.start})"
        ) from error
    if not text.strip():
        raise PipelineError(f"initializations.{name}.path: '{path}' is empty")
    return text
