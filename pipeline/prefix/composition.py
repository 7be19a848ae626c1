"""Several prefixes as one: one after another, the keys of each moved on to consecutive positions.

Each prefix is made for positions 0 to p-1, with its input from p on, whether it started from a text
or from noise. In a composition the second stands at p_a to p_a + p_b - 1, and the input after both.
Rotated on by p_a, keys are as far from each other, and those of the last as far from the input, as
they were made for. No prefix has seen another: the composition of two texts' caches is what the
model computes where neither text sees the other and positions go on (the layout of parallel context
windows, Ratner et al. 2023, arXiv 2212.10947, with consecutive positions).

Every virtual token stays, also those that begin a text (BOS) in a later prefix: the others of its
prefix were computed or trained beside it, and what it draws of the attention it drew from them.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from pipeline.prefix.architecture.context import context_of
from pipeline.prefix.architecture.key_positions import (
    KeyPositions,
    counts_for_itself,
    key_positions,
)
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.kv import COMPOSED_OF, KVPrefix

# What a composition has of its parts, which agree in it.
_COMMON = ("model", "config_sha256", "dtype")


def composed(
    frozen_model: PreTrainedModel,
    prefixes: Sequence[KVPrefix],
    names: Sequence[str] | None = None,
) -> KVPrefix:
    """Prefixes of one model, one after another, as one prefix of all their virtual tokens.

    One prefix alone is itself. Slices of the composition are its parts, keys apart, which stand
    where they were moved to. Of keys that a model rotates those of every prefix but the first are
    moved; of one whose attention goes by the place of a key, or by none, nothing is to do.

    Args:
        frozen_model: the model that they were made with.
        prefixes: in the order in which they stand.
        names: what errors and the file call each; None for `prefix 1`, `prefix 2`, ...

    Returns:
        float32 where its parts are; its metadata name them under `composed_of`.

    Raises:
        PrefixError: for none, for prefixes that do not go together (of different models, layers or
            beginnings), that have states or trained modules or are for a part of an
            encoder-decoder, that take more than the model's context, and for a model whose
            positions cannot be taken out of its keys (learned ones).
    """
    named = list(names or (f"prefix {number}" for number in range(1, len(prefixes) + 1)))
    if not prefixes:
        raise PrefixError("there is no prefix to compose; give at least one")
    if len(prefixes) == 1:
        return prefixes[0]
    refuse_apart(prefixes, named)
    length = sum(map(len, prefixes))
    kv = one_after_another(prefixes, positions_for(frozen_model, length))
    about = {key: text for key in _COMMON if (text := prefixes[0].metadata.get(key)) is not None}
    parts = [_about(part, name) for part, name in zip(prefixes, named, strict=True)]
    about[COMPOSED_OF] = json.dumps(parts, sort_keys=True)
    return replace(kv, metadata=about).beginning_text(prefixes[0].begins_text)


def positions_for(frozen_model: PreTrainedModel, length: int) -> KeyPositions:
    """How the model's keys turn, for compositions of up to `length` virtual tokens.

    Raises PrefixError for more than its context has room for, and for a model whose cached keys
    cannot be moved.
    """
    name, context = type(frozen_model).__name__, context_of(frozen_model)
    if context is not None and length >= context:
        raise PrefixError(
            f"the prefixes have {length} virtual tokens together, which leaves no room in the "
            f"model's context of {context} positions; compose fewer or shorter ones"
        )
    found = key_positions(frozen_model, length)
    if found is None or (not found.turns and counts_for_itself(frozen_model)):
        raise PrefixError(
            f"prefixes of {name} cannot be composed: their positions are part of their keys and "
            "values (learned, or added to the embeddings), and none of them can be moved on"
        )
    return found


def one_after_another(prefixes: Sequence[KVPrefix], positions: KeyPositions) -> KVPrefix:
    """The tensors of a composition, with gradients to the prefixes that have some."""
    moved, start = [], 0
    for kv in prefixes:
        old = range(len(kv))
        moved.append(kv if start == 0 else positions.moved(kv, old, [start + i for i in old]))
        start += len(kv)

    def joined(tensors: Sequence[torch.Tensor], dim: int) -> torch.Tensor:
        first = tensors[0]
        return torch.cat([tensor.to(first.device, first.dtype) for tensor in tensors], dim)

    return replace(
        prefixes[0],
        keys=tuple(joined(keys, 1) for keys in zip(*(kv.keys for kv in moved), strict=True)),
        values=tuple(joined(v, 1) for v in zip(*(kv.values for kv in moved), strict=True)),
        states={name: joined([kv.states[name] for kv in moved], 0) for name in moved[0].states},
        metadata={},
    )


def refuse_apart(prefixes: Sequence[KVPrefix], names: Sequence[str]) -> None:
    """Raise PrefixError, with their names, where prefixes do not go together."""
    first = prefixes[0]
    for kv, name in zip(prefixes, names, strict=True):
        if "state" in kv.kinds:
            raise PrefixError(
                f"{name} has states, of which a layer starts from one alone, so that it cannot be "
                "composed; compose keys and values alone, kv.of_kinds(('attention',))"
            )
        if kv.parts is not None:
            raise PrefixError(
                f"{name} is for the {' and the '.join(dict.fromkeys(kv.parts))} of a model with an "
                "encoder; only prefixes of a decoder alone can be composed"
            )
        if kv.modules:
            raise PrefixError(
                f"{name} has modules trained with it ({', '.join(_modules(kv))}), of which a model "
                "uses one alone, so that it cannot be composed"
            )
        made = [part.metadata.get("config_sha256") for part in (first, kv)]
        if kv.shapes != first.shapes or (None not in made and made[0] != made[1]):
            models = [part.metadata.get("model", "an unnamed model") for part in (first, kv)]
            raise PrefixError(
                f"{names[0]} was made with {models[0]} and {name} with {models[1]}, which are "
                "different models; compose prefixes of one model"
            )
        if kv.layers != first.layers or kv.states.keys() != first.states.keys():
            raise PrefixError(
                f"{names[0]} and {name} are for different layers ({_layers(first)}; "
                f"{_layers(kv)}); compose prefixes of the same layers"
            )
        if kv.begins_text != first.begins_text:
            begins, not_ = (names[0], name) if first.begins_text else (name, names[0])
            raise PrefixError(
                f"{begins} begins a text, so that its inputs have no BOS, and {not_} does not; "
                "compose prefixes of one kind, or say otherwise by kv.beginning_text()"
            )


def _layers(kv: KVPrefix) -> str:
    return "all" if kv.layers is None else ", ".join(map(str, kv.layers))


def _modules(kv: KVPrefix) -> list[str]:
    return list(dict.fromkeys(name.rpartition(".")[0] for name in sorted(kv.modules)))


def _about(kv: KVPrefix, name: str) -> dict[str, object]:
    """A part as the composition's metadata have it: its name, length, numbers and own metadata."""
    digest = hashlib.sha256()
    for tensor in (*kv.keys, *kv.values, *kv.states.values()):
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    own = {key: text for key, text in kv.metadata.items() if key not in _COMMON}
    return {"name": name, "tokens": len(kv), "sha256": digest.hexdigest(), **own}
