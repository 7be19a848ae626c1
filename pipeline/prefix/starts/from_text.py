"""The cache of a text as a prefix (PEFT's `initialize_kv_prefix_from_text` and its kin)."""

import hashlib
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.prefix.architecture.cached import prefix_of
from pipeline.prefix.architecture.context import context_of
from pipeline.prefix.architecture.parts import is_decoder_only
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.files.provenance import provenance
from pipeline.prefix.kv import KVPrefix
from pipeline.prefix.starts.beginning import text_tokens, tokens_before
from pipeline.prefix.starts.from_source import kv_prefix_from_source_tokens
from pipeline.prefix.starts.prefill import prefilled


@torch.no_grad()
def kv_prefix_from_text(
    frozen_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    num_virtual_tokens: int,
    use_chat_template: bool = False,
) -> KVPrefix:
    """The keys and values of a text's first tokens, at positions 0 to p-1.

    As in PEFT, the text begins as the tokenizer begins a text (BOS), or it is one user message
    through the chat template. By causality the first p entries are the same for every longer p;
    where layers recur, the states after exactly p tokens come with them.

    Raises:
        PrefixError: when the text has fewer than `num_virtual_tokens` tokens.
    """
    if num_virtual_tokens < 1:
        raise PrefixError(f"num_virtual_tokens is {num_virtual_tokens}; a prefix has at least 1")
    if use_chat_template:
        if tokenizer.chat_template is None:
            raise PrefixError("the tokenizer has no chat template; use use_chat_template=False")
        message = [{"role": "user", "content": text}]
        text, unbegun = (
            str(tokenizer.apply_chat_template(message, tokenize=False, **variables))
            for variables in ({}, {"bos_token": ""})
        )
        tokens = tokenizer.encode(text, add_special_tokens=False)
        # The template may print what the tokenizer itself adds to no text.
        begins_text = tokens[:1] == [tokenizer.bos_token_id] and (
            tokens[:1] == tokens_before(tokenizer)
            or tokens[1:] == tokenizer.encode(unbegun, add_special_tokens=False)
        )
    elif is_decoder_only(frozen_model):
        tokens = text_tokens(tokenizer, text)
        begins_text = bool(tokens_before(tokenizer))
    else:
        tokens, begins_text = tokenizer.encode(text), False
    if len(tokens) < num_virtual_tokens:
        raise PrefixError(
            f"the text has {len(tokens)} tokens, fewer than the {num_virtual_tokens} "
            "virtual tokens asked for; use a longer text or a shorter prefix"
        )
    kv = kv_prefix_from_tokens(frozen_model, torch.tensor(tokens[:num_virtual_tokens]))
    kv = kv.beginning_text(begins_text)
    kv.metadata["text_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    return kv


@torch.no_grad()
def kv_prefix_from_tokens(
    frozen_model: PreTrainedModel, tokens: torch.Tensor | list[int]
) -> KVPrefix:
    """The keys and values of a sequence of token ids `[p]`, float32.

    Of a model with an encoder, those of `kv_prefix_from_source_tokens`: its encoder reads them.
    Raises PrefixError when they are more than the model's context, or none.
    """
    tokens = torch.as_tensor(tokens)
    context = context_of(frozen_model)
    if context is not None and len(tokens) > context:
        raise PrefixError(
            f"{len(tokens)} virtual tokens are more than the model's context of {context} "
            "positions; use a shorter prefix, or of a longer text chunks alone (spaced_chunks)"
        )
    if not is_decoder_only(frozen_model):
        return kv_prefix_from_source_tokens(frozen_model, tokens.tolist())
    name = f"the cache of {type(frozen_model).__name__}"
    kv = prefix_of(prefilled(frozen_model, tokens), len(tokens), is_ours=True, name=name)
    kv.metadata.update(provenance(frozen_model))
    kv.metadata["tokens_sha256"] = hashlib.sha256(str(tokens.tolist()).encode()).hexdigest()
    return kv


def kv_prefix_from_cache(past_key_values: Any, num_virtual_tokens: int) -> KVPrefix:
    """The first tokens of a transformers `Cache` of one row as a prefix, float32.

    Raises:
        PrefixError: when it holds several rows, or fewer tokens than asked for in some layer, or
            states of more tokens.
    """
    return prefix_of(past_key_values, num_virtual_tokens)
