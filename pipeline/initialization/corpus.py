"""From an initialisation of params.yaml to the text that it starts from, and its tokens."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from pipeline.config import Params
from pipeline.config.initializations import (
    FROM_FILE,
    CorpusChunks,
    CorpusText,
    Demonstrations,
    Initialization,
    MostAttended,
)
from pipeline.data.rendering import Renderer
from pipeline.errors import PipelineError
from pipeline.models.tokenizer import load_tokenizer
from pipeline.prefix.starts.initializers import spaced_chunks
from pipeline.storage.records import read_jsonl
from pipeline.workspace import paths


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
    tokenizer: PreTrainedTokenizerBase,
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


def _demonstrations(definition: Demonstrations, renderer: Renderer) -> str:
    rows = _shuffled(definition)
    return renderer.demonstrations(rows[: definition.max_examples], definition.template)


def _shuffled(definition: Demonstrations) -> list[dict[str, Any]]:
    rows = read_jsonl(Path(definition.path))
    # A seeded order, so that neighbouring rows of one topic do not fill a short prefix.
    random.Random(definition.seed).shuffle(rows)
    return rows


def _as_message(name: str, text: str, tokenizer: PreTrainedTokenizerBase) -> str:
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
