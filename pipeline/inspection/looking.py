"""All that is looked at in one prefix, as tables."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from transformers import PreTrainedTokenizerBase

from pipeline.data.batching import Example
from pipeline.errors import PipelineError
from pipeline.inspection.ablation import ablation
from pipeline.inspection.found import Found
from pipeline.inspection.inputs import calls_of, loss_on
from pipeline.inspection.movement import ALONE, movement, movement_of_tokens
from pipeline.inspection.words import nearest_words
from pipeline.prefix import KVPrefix, PrefixModel
from pipeline.prefix.attention import Attention, attention_by_place
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.states import layer_of

NEAREST = 5
"""Words of the vocabulary listed for each virtual token."""


@dataclass(frozen=True)
class Prefix:
    """What is looked at: a prefix in its model, where it started, and inputs for it.

    `start` and `words` are None of a prefix that was trained elsewhere; `words` also of a start
    that is of no text, which `origin` then tells.
    """

    name: str
    model: PrefixModel
    tokenizer: PreTrainedTokenizerBase
    start: KVPrefix | None
    origin: str
    words: list[str] | None
    split: str
    examples: Sequence[Example]


def look_into(prefix: Prefix, max_tokens: int, title: str | None = None) -> Found:
    """Every table of a prefix; without examples those that need none.

    `max_tokens` bounds what is measured at once; `title` shows a progress bar.
    """
    model = prefix.model.eval()
    kv = model.kv_prefix()
    assert kv is not None
    facts = {
        "variant": prefix.name,
        "length": len(kv),
        "layers": len({*kv.places, *((None, layer_of(name)) for name in kv.states)}),
        "origin": prefix.origin,
        "split": prefix.split,
        "examples": len(prefix.examples),
    }
    found = Found(facts)
    if prefix.start is None:
        found.notes.append(f"movement: where {prefix.name} started is not known here")
    else:
        start = prefix.start.to(model.device)
        found.tables["movement"] = movement(start, kv)
        if kv.keys:
            found.tables["movement_of_tokens"] = movement_of_tokens(start, kv)
    try:
        words = nearest_words(model.frozen_model, prefix.tokenizer, kv, NEAREST)
        words.insert(
            1, "start", [prefix.words[t] if prefix.words else None for t in words["token"]]
        )
        found.tables["words"] = words
    except PipelineError as error:
        found.notes.append(str(error))
    if not prefix.examples:
        found.notes.append("attention, ablation: no input is read, of which they would be")
        return found
    _add_attention(prefix, found, kv)
    loss = loss_on(prefix.examples, max_tokens)
    try:
        tried = found.tables["ablation"] = ablation(model, loss, prefix.start, title)
    except PrefixError as error:
        found.notes.append(f"ablation: {error}")
        return found
    for kind in ("tokens", "layers"):
        blocks = tried[tried["without"] == kind]
        if len(blocks) and (widest := int((blocks["last"] - blocks["first"]).max()) + 1) > 1:
            found.notes.append(f"ablation: {kind} are left out in blocks of {widest} adjacent ones")
    return found


def _add_attention(prefix: Prefix, found: Found, kv: KVPrefix) -> None:
    if not kv.keys:
        found.notes.append("attention: the prefix has no keys that inputs could attend to")
        return
    try:
        seen = attention_by_place(prefix.model, calls_of(prefix.model, prefix.examples))
    except PrefixError as error:
        found.notes.append(f"attention: {error}")
        return
    found.tables["attention"] = _by_token(seen)
    found.tables["attention_of_layers"] = pd.DataFrame(
        {
            **{"part": part or ALONE, "layer": layer, "prefix": float(seen.tokens[at].sum())},
            "input": float(seen.input[at]),
        }
        for at, (part, layer) in enumerate(seen.places)
    )


def _by_token(seen: Attention) -> pd.DataFrame:
    return pd.DataFrame(
        {"part": part or ALONE, "layer": layer, "token": token, "share": float(share)}
        for at, (part, layer) in enumerate(seen.places)
        for token, share in enumerate(seen.tokens[at])
    )
