"""What is asked of a prefix, this project's or PEFT's: the numbers of the text in the context."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from benchmarks.census.attempts import Problem, attempt
from benchmarks.census.expected import (
    Expected,
    best_gap,
    gap,
    generated,
    padded,
    row_gap,
)

Error = float | Problem
"""The largest error of a logit, or why there is none."""


@dataclass
class Checked:
    """What one side's prefix did; errors are the largest of a logit.

    Attributes:
        start: why there is no prefix at all.
        warned: what the prefix said of itself meanwhile, so that a wrong number is not silent.
        identity: of two inputs of one length after the prefix.
        generation: of the logits of generated tokens; infinite where other tokens came out.
        padding: of inputs of several lengths in one batch, by the side that is padded.
        padded_generation: the same rows, padded on the left and gone on with.
        gradient: what of the prefix gets none (`without_gradient`).
        slope: by how much a loss changes along its gradient, relative to what the gradient says.
        packed: of rows one after another without padding; `why_not_packed` where that is off.
        left_behind: of the model itself, once the prefix is gone.
    """

    start: Problem | None = None
    warned: str = ""
    identity: Error = 0.0
    generation: Error = 0.0
    padding: dict[str, Error] = field(default_factory=dict)
    padded_generation: Error | None = None
    gradient: list[str] | Problem = field(default_factory=list)
    slope: Error | None = None
    packed: Error | None = None
    why_not_packed: str = ""
    left_behind: Error = 0.0


def check(model: Any, expected: Expected, gradient: Callable[[], list[str]]) -> Checked:
    """Ask a model with a prefix that is the text; `gradient` says what of it gets none."""
    ones, checked = torch.ones_like(expected.ids), Checked()
    model.eval()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        checked.identity = attempt(lambda: _identity(model, expected, ones))
    own = [str(one.message) for one in told if "/pipeline/prefix/" in one.filename]
    checked.warned = "; ".join(dict.fromkeys(own))
    for side in ("left", "right") if expected.rows else ():
        checked.padding[side] = attempt(partial(_padding, model, expected, side))
    checked.gradient = attempt(gradient)
    model.eval()
    # Some models keep something of what they generated.
    checked.generation = attempt(
        lambda: best_gap(
            generated(model, expected.ids, ones, expected.others), expected.greedy, expected.own
        )
    )
    if expected.row_greedy is not None:
        checked.padded_generation = attempt(lambda: _padded_generation(model, expected))
    return checked


@torch.no_grad()
def _identity(model: Any, expected: Expected, ones: torch.Tensor) -> float:
    out = model(input_ids=expected.ids, attention_mask=ones, **expected.others)
    return gap(out.logits, expected.logits)


@torch.no_grad()
def _padding(model: Any, expected: Expected, side: str) -> float:
    ids, mask = padded(expected.rows, side)
    return row_gap(model(input_ids=ids, attention_mask=mask).logits, mask, expected.row_logits)


def _padded_generation(model: Any, expected: Expected) -> float:
    assert expected.row_greedy is not None
    ids, mask = padded(expected.rows, "left")
    return best_gap(generated(model, ids, mask, {}), expected.row_greedy, expected.row_own)


def without_gradient(still: dict[tuple[int, str], bool]) -> list[str]:
    """The layers that no gradient reaches, and tensors of others: by layer and name, whether none.

    Keys that an index alone is computed of get none by nature.
    """
    reached = {layer for (layer, _), is_still in still.items() if not is_still}
    layers = sorted({layer for layer, _ in still} - reached)
    return [f"layer {layer}" for layer in layers] + [
        f"{name} of layer {layer}"
        for (layer, name), is_still in still.items()
        if is_still and layer in reached
    ]


def loss_of(model: Any, expected: Expected) -> torch.Tensor:
    """A number that every logit enters with a fixed random weight of its own."""
    ones = torch.ones_like(expected.ids)
    logits = model(input_ids=expected.ids, attention_mask=ones, **expected.others).logits
    # Chameleon gives the tokens of images the lowest number that there is.
    logits = logits.masked_fill(logits <= torch.finfo(logits.dtype).min, 0.0)
    draw = torch.Generator().manual_seed(1)
    weights = torch.randn(logits.shape, generator=draw)
    return (logits * weights).sum() / logits.numel() ** 0.5
