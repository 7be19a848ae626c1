"""How much attention inputs pay to each virtual token, layer by layer."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.prefix.architecture.parts import takes
from pipeline.prefix.architecture.turns import turn_of
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.model import PrefixModel

# Where an output of transformers keeps the weights of each part's attention.
_OUTPUTS = {
    None: "attentions",
    "encoder": "encoder_attentions",
    "decoder": "decoder_attentions",
    "cross": "cross_attentions",
}


@dataclass(frozen=True)
class Attention:
    """Shares of attention, means over inputs, their positions and heads.

    Attributes:
        places: the part and the layer of each row, as `KVPrefix.places` has them.
        tokens: of each virtual token, float64 `[places, p]`.
        input: of the input's own tokens, float64 `[places]`. What is left to 1 beside them and the
            virtual tokens is the model's own attention sink, where it has one (GPT-OSS).
    """

    places: list[tuple[str | None, int]]
    tokens: torch.Tensor
    input: torch.Tensor


@torch.no_grad()
def attention_by_place(model: PrefixModel, calls: Iterable[dict[str, Any]]) -> Attention:
    """The attention that inputs pay to a model's prefix, from the weights that it computes.

    The model computes plain (eager) attention meanwhile, whose weights transformers returns with
    `output_attentions`.

    Args:
        model: has a prefix.
        calls: the keywords of a call each, for one row without padding.

    Raises:
        PrefixError: for a model that does not show its attention, or for no call.
    """
    kv = model.kv_prefix()
    if kv is None:
        raise PrefixError("the model has no prefix that inputs could attend to")
    p, places = len(kv), kv.places
    tokens = torch.zeros(len(places), p, dtype=torch.float64)
    inputs = torch.zeros(len(places), dtype=torch.float64)
    queries = torch.zeros(len(places), dtype=torch.float64)
    shown: dict[str, Any] = {"output_attentions": True}
    if takes(model.frozen_model, "use_cache"):
        shown["use_cache"] = False
    with _showing(model):
        for call in calls:
            output = model(**call, **shown)
            for at, weights in enumerate(_weights_of(output, places, model)):
                # Added up on the CPU: Apple's MPS has no float64.
                received = weights[0].cpu().double().mean(0).sum(0)
                tokens[at] += received[:p]
                inputs[at] += received[p:].sum()
                queries[at] += weights.shape[2]
    if not queries.all():
        raise PrefixError("no input to measure attention with; give at least one")
    return Attention(places, tokens / queries[:, None], inputs / queries)


@contextmanager
def _showing(model: PrefixModel) -> Iterator[None]:
    frozen = model.frozen_model
    with turn_of(frozen):
        before = frozen.config._attn_implementation
        frozen.set_attn_implementation("eager")
        try:
            yield
        finally:
            frozen.set_attn_implementation(before)


def _weights_of(
    output: Any, places: list[tuple[str | None, int]], model: PrefixModel
) -> Iterator[torch.Tensor]:
    """Of each place the weights `[1, heads, queries, p + tokens]`, the prefix's first."""
    is_both = model.config.is_encoder_decoder
    # Of a model that is a decoder alone, layers without attention show nothing.
    attending = list(model.cache_shapes.attention)
    for part, layer in places:
        shown = getattr(output, _OUTPUTS[part if is_both else None], None) or ()
        # A layer that shows nothing would give the others another one's place.
        lacks = not is_both and len(shown) != len(attending)
        at = layer if is_both else attending.index(layer)
        weights = None if lacks or at >= len(shown) else shown[at]
        if weights is None or weights.ndim != 4:
            raise PrefixError(
                f"{type(model.frozen_model).__name__} does not show its attention weights"
            )
        yield weights
