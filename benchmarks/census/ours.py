"""The checks of this project's prefix."""

import statistics
from typing import Any

import torch
from transformers import PreTrainedModel

from benchmarks.census.attempts import Problem, attempt
from benchmarks.census.checks import Checked, check, loss_of, without_gradient
from benchmarks.census.expected import Expected, gap
from benchmarks.census.words import text_of, tokenizer
from pipeline.prefix import KVPrefix, PrefixConfig, PrefixModel, kv_prefix_from_text

_STEP = 0.01
_PLACES, _PIECES, _STEPS, _CLEAR = 4, 4, (1e-3, 1e-4, 1e-5), 0.01


def check_ours(model: PreTrainedModel, expected: Expected) -> Checked:
    """`PrefixModel`, started by `kv_prefix_from_text` and asked through its public methods."""
    tuned = attempt(lambda: _prefixed(model, expected.text))
    if isinstance(tuned, Problem):
        return Checked(start=tuned)
    packed = attempt(lambda: _packed(tuned, expected)) if expected.rows else ""
    checked = check(tuned, expected, lambda: _without_gradient(tuned, expected))
    if isinstance(packed, str):
        checked.why_not_packed = packed
    else:
        checked.packed = packed
    if not isinstance(checked.gradient, Problem):
        checked.slope = attempt(lambda: _slope(tuned, expected))
    tuned.eval()
    tuned.detach()
    checked.left_behind = attempt(lambda: _left_behind(model, expected))
    return checked


def _prefixed(model: PreTrainedModel, text: torch.Tensor) -> PrefixModel:
    p = len(text)
    tuned = PrefixModel(model, PrefixConfig(num_virtual_tokens=p))
    tuned.load_kv_prefix(kv_prefix_from_text(model, tokenizer(), text_of(text), p))
    return tuned


@torch.no_grad()
def _packed(tuned: PrefixModel, expected: Expected) -> float | str:
    """The error of packed rows, or why they are off."""
    lengths = [len(row) for row in expected.rows]
    reason = tuned.why_not_packed(tokens=max(lengths))
    if reason is not None:
        return reason
    ids = torch.cat(expected.rows)
    return gap(
        tuned.packed_logits(ids, lengths, torch.arange(len(ids))), torch.cat(expected.row_logits)
    )


def _without_gradient(tuned: PrefixModel, expected: Expected) -> list[str]:
    """What of the prefix a step along the signs of the gradient leaves as it is."""
    before = _tensors(tuned.kv_prefix())
    tuned.train()
    tuned.zero_grad()
    loss_of(tuned, expected).backward()
    trained = [parameter for parameter in tuned.parameters() if parameter.requires_grad]
    kept = [parameter.detach().clone() for parameter in trained]
    with torch.no_grad():
        for parameter in trained:
            if parameter.grad is not None:
                parameter.sub_(_STEP * parameter.grad.sign())
        after = _tensors(tuned.kv_prefix())
        for parameter, values in zip(trained, kept, strict=True):
            parameter.copy_(values)
    still = {
        at: torch.equal(after[at], value) or not bool(after[at].isfinite().all())
        for at, value in before.items()
    }
    return without_gradient(still)


def _slope(tuned: PrefixModel, expected: Expected) -> float:
    """How far the loss's measured change along its gradient is from the computed one, relative.

    Where a model chooses experts or keys the loss has jumps: so it is the median over pieces of
    the prefix, each moved alone, of the best of several steps, and the best of a few places near
    the text.
    """
    start = [p.detach().clone() for p in tuned.parameters() if p.requires_grad]
    error = float("inf")
    for place in range(_PLACES):
        error = min(error, _slope_near(tuned, expected, start, place))
        if error < _CLEAR:
            break
    return error


def _slope_near(
    tuned: PrefixModel, expected: Expected, start: list[torch.Tensor], place: int
) -> float:
    draw, errors = torch.Generator().manual_seed(place), []
    trained = [p for p in tuned.parameters() if p.requires_grad]
    with torch.no_grad():
        for p, at in zip(trained, start, strict=True):
            p.copy_(at * (1 + 0.05 * torch.randn(p.shape, generator=draw)))
    tuned.zero_grad()
    loss_of(tuned, expected).backward()
    trained = [p for p in trained if p.grad is not None]
    for piece in range(_PIECES):
        along = [_piece(p, piece) for p in trained]
        pairs = zip(trained, along, strict=True)
        computed = sum(float((p.grad * step).sum()) for p, step in pairs if p.grad is not None)
        changes = [_change(tuned, expected, trained, along, size) for size in _STEPS]
        errors.append(min(abs(change - computed) for change in changes) / max(abs(computed), 1e-9))
    return statistics.median(errors)


@torch.no_grad()
def _change(
    tuned: PrefixModel,
    expected: Expected,
    trained: list[torch.nn.Parameter],
    along: list[torch.Tensor],
    size: float,
) -> float:
    """Of the loss, for a step of that size along a direction, in units of the step."""
    start, ends = [p.detach().clone() for p in trained], []
    for by in (size, -size):
        for p, at, step in zip(trained, start, along, strict=True):
            p.copy_(at + by * step)
        ends.append(float(loss_of(tuned, expected)))
    for p, at in zip(trained, start, strict=True):
        p.copy_(at)
    return (ends[0] - ends[1]) / (2 * size)


@torch.no_grad()
def _piece(parameter: torch.nn.Parameter, piece: int) -> torch.Tensor:
    """The gradient of a part of a parameter, as long as this part is."""
    assert parameter.grad is not None
    step = torch.zeros_like(parameter).flatten()
    chosen = slice(piece, None, _PIECES)
    gradient, values = parameter.grad.flatten()[chosen], parameter.flatten()[chosen]
    step[chosen] = gradient * (values.norm() / gradient.norm().clamp(min=1e-30))
    return step.view_as(parameter)


def _tensors(kv: KVPrefix | None) -> dict[tuple[int, str], torch.Tensor]:
    """By the layer and what it is of it."""
    assert kv is not None
    layers = range(len(kv.keys)) if kv.layers is None else kv.layers
    found = {(layer, "keys"): key for layer, key in zip(layers, kv.keys, strict=True)}
    found |= {(layer, "values"): value for layer, value in zip(layers, kv.values, strict=True)}
    states: dict[str, Any] = getattr(kv, "states", {})
    for name, state in states.items():
        layer, _, kind = name.partition(".")
        found[int(layer), kind] = state
    return found


@torch.no_grad()
def _left_behind(model: PreTrainedModel, expected: Expected) -> float:
    return gap(model(input_ids=expected.ids, **expected.others).logits, expected.bare)
