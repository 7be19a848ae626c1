"""Which models packed rows serve, and why not the others.

An architecture is never assumed to be a plain one: it is tried, once, on a small random model of
the same class and configuration in float32, packed and each example alone. So the answer depends
on nothing but the architecture and on how long the sequences are: not on a prefix's values, a seed
or a dtype. What trying cannot see, because it begins at lengths beyond those tried, the
configuration says (`pipeline.prefix.architecture.reach`); a window that it speaks of is made so
small that what is tried is several times longer.
"""

import inspect
from typing import Any

import torch
from transformers import PreTrainedModel

from pipeline.prefix.architecture.context import context_of
from pipeline.prefix.architecture.miniature import VOCABULARY, miniature_of
from pipeline.prefix.architecture.parts import is_decoder_only
from pipeline.prefix.architecture.reach import reach_of, window_of
from pipeline.prefix.architecture.routing import reaches_attention
from pipeline.prefix.architecture.shapes import kv_shapes
from pipeline.prefix.caches import chooses, recurs
from pipeline.prefix.kv import KVPrefix
from pipeline.prefix.packed.backends import any_backend
from pipeline.prefix.packed.logits import packed_logits
from pipeline.prefix.packed.masks import NotPackableError
from pipeline.prefix.parameters.config import PrefixConfig

# Sequences of up to so many tokens are tried at their own length.
_SHORTEST, _LONGEST = 64, 2048
_PREFIX = 3
# Of what is tried beyond a window, so many windows are seen.
_WINDOWS = 4
# Of the largest logit; float32 rounds to a hundredth of it, and a scale wrong by 10% is off by
# some hundred times as much.
_TOLERANCE = 1e-4

# Of each architecture, by the length that was tried.
_verdicts: dict[tuple[Any, ...], dict[int, str | None]] = {}


def why_not_packed(
    frozen_model: PreTrainedModel, config: PrefixConfig | None, tokens: int
) -> str | None:
    """Why packed rows do not serve a model with such a prefix, in a clause; None where they do.

    They do where `packed_logits` gives what the model itself gives for each example alone.

    Args:
        frozen_model: in training mode, where it is trained itself, its own dropout counts.
        config: None for no prefix.
        tokens: those of the longest example after the prefix, generated ones included.
    """
    name = type(frozen_model).__name__
    if config is not None and config.modules_to_save:
        return "a head trained beside the prefix answers for padded batches alone"
    if not is_decoder_only(frozen_model):
        return f"{name} is not causal throughout"
    if config is not None and config.layers is not None:
        # What it would be compared with holds its prefix in a plain cache, which has every layer.
        return "the prefix is for some layers alone"
    if chooses(frozen_model.config):
        return f"{name} chooses among the keys of a row, in which packed examples would compete"
    if recurs(frozen_model.config):
        return f"{name} carries states on from each packed example to the next"
    p = 0 if config is None else config.num_virtual_tokens
    reach = reach_of(frozen_model.config)
    if reach.tokens is not None and p + tokens > reach.tokens:
        return f"{name} {reach.why}, fewer than the {p + tokens} of prefix and example"
    window = window_of(frozen_model.config)
    if window is None or p + tokens <= window:
        return _why_not_plain(frozen_model, config is not None, p + tokens, False)
    reason = _why_not_plain(frozen_model, config is not None, p + tokens, True)
    return reason and f"beyond a window of {window} tokens {reason}"


def _why_not_plain(
    model: PreTrainedModel, prefixed: bool, tokens: int, windowed: bool
) -> str | None:
    """The verdict on an architecture, kept for every model that has it.

    With `windowed` on what it computes beyond its windows, otherwise within them.
    """
    name = type(model).__name__
    parameters = inspect.signature(model.forward).parameters
    if lacking := {"logits_to_keep", "position_ids"} - parameters.keys():
        return f"{name} takes no {min(lacking)}"
    if not reaches_attention(model):
        return f"{name} computes its attention itself, out of reach of AttentionInterface"
    tried = _SHORTEST
    while tried < min(tokens, _LONGEST):
        tried *= 2
    reach = reach_of(model.config)
    row = None if reach.row is None else reach.row - _PREFIX
    within = None if windowed else window_of(model.config)
    bounds = (tried, reach.tokens, row, within, context_of(model))
    tried = min(bound for bound in bounds if bound is not None)
    settings = model.config.to_json_string(use_diff=False)
    drops = not prefixed and model.training
    known = _verdicts.setdefault((type(model), settings, prefixed, drops, windowed), {})
    for length, verdict in known.items():
        # By causality a sequence holds every shorter one.
        if length >= tried if verdict is None else length <= tried:
            return verdict
    known[tried] = _why_not_tried(model, prefixed, drops, tried, windowed)
    return known[tried]


@torch.no_grad()
def _why_not_tried(
    model: PreTrainedModel, prefixed: bool, drops: bool, tried: int, windowed: bool
) -> str | None:
    """What a small model of the architecture shows on sequences of `tried` tokens."""
    name = type(model).__name__
    draw = torch.Generator().manual_seed(0)
    lengths = [2, max(1, tried - _PREFIX), 1]
    ids = torch.randint(8, VOCABULARY - 8, (sum(lengths),), generator=draw)
    keep = torch.arange(len(ids))
    try:
        window = max(1, tried // _WINDOWS) if windowed else None
        small = miniature_of(model) if window is None else miniature_of(model, window)
        prefix = _drawn(small, draw) if prefixed else None
        # The small model lies on the CPU, whose backend need not be the one that is named.
        with any_backend():
            packed = packed_logits(small, ids, lengths, prefix, keep)
        alone = torch.cat([_alone(small, part, prefix) for part in ids.split(lengths)])
        if drops:
            with torch.random.fork_rng(devices=[]), any_backend():
                packed_logits(small.train(), ids, lengths, prefix, keep)
    except NotPackableError as error:
        return f"{name} computes more than scaled, causal softmax attention ({error})"
    except Exception as error:  # models raise whatever they like for what they were not made for
        return f"{name} cannot be tried on packed examples ({str(error) or type(error).__name__})"
    if bool(((packed - alone).abs().max() / alone.abs().max()) < _TOLERANCE):
        return None
    return f"{name} gives other logits for packed examples than for each alone"


def _drawn(model: PreTrainedModel, draw: torch.Generator) -> KVPrefix:
    """A fixed random prefix, of the size of a small model's own keys and values."""
    shapes = kv_shapes(model)
    keys, values = (
        tuple(torch.randn(pair[i][0], _PREFIX, pair[i][1], generator=draw) for pair in shapes)
        for i in range(2)
    )
    return KVPrefix(keys, values)


def _alone(model: PreTrainedModel, ids: torch.Tensor, prefix: KVPrefix | None) -> torch.Tensor:
    extra: dict[str, Any] = {"use_cache": False}
    if prefix is not None:
        mask = torch.ones(1, len(prefix) + len(ids), dtype=torch.long)
        extra = {"attention_mask": mask, "past_key_values": prefix.to_cache()}
    logits: torch.Tensor = model(input_ids=ids[None], **extra).logits
    return logits[0]
