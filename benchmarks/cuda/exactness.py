"""Whether packed rows, on every backend, give what padded batches and PEFT give."""

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers import PreTrainedModel

from benchmarks.cuda.models import build, config_of
from benchmarks.cuda.systems import Make, Ours, Peft, Rows, padded_ours, start_of
from benchmarks.examples import examples
from pipeline.prefix.packed.backends import AUTO, BACKENDS, use_backend, why_not
from pipeline.prefix.packed.call import StateKind

_SHAPE, _LAYERS = "Llama-3.2-1B", 4
_PREFIX, _NEW_TOKENS = 33, 16
# Of the largest number, in float32: some tens of roundings through the layers.
_TOLERANCES = {"logits": 1e-4, "gradient": 1e-3}
# How much more than a padded batch packed rows may round in a dtype of fewer bits.
_MORE = 2.0

Check = tuple[str, Callable[[], dict[str, Any]]]


class InexactError(Exception):
    """What was to be equal is not."""


def checks(models: "Models") -> Iterator[Check]:
    """Each check with its name."""
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        for other in ("padded", "PEFT"):
            yield f"exact, {name}: packed as {other}", _comparing(models, dtype, other)
    yield "exact, float16: packed as padded", _comparing(models, torch.float16, "padded")
    # What compiles comes last.
    for backend in sorted(BACKENDS, key=lambda row: row == "flex"):
        for dtype in (torch.float32, torch.bfloat16):
            name = str(dtype).removeprefix("torch.")
            yield f"exact, {name}: by {backend}", _trying(models, dtype, backend)


class Models:
    """One set of weights in each dtype, those of bfloat16 in all; made when first asked for."""

    def __init__(self, device: str, small: bool) -> None:
        self.device, self._small = device, small
        self._known: dict[torch.dtype, PreTrainedModel] = {}

    def of(self, dtype: torch.dtype) -> PreTrainedModel:
        """The frozen model in a dtype."""
        if not self._known:
            config = config_of(_SHAPE, self._small, _LAYERS)
            self._known[torch.bfloat16] = build(config, torch.bfloat16, self.device)
        if dtype not in self._known:
            self._known[dtype] = copy.deepcopy(self._known[torch.bfloat16]).to(dtype)
        return self._known[dtype]

    def rows(self) -> Rows:
        """A few examples of several lengths."""
        return examples(6, self.of(torch.float32).config.vocab_size, seed=2)


def _comparing(models: Models, dtype: torch.dtype, other: str) -> Callable[[], dict[str, Any]]:
    def compare() -> dict[str, Any]:
        theirs: Make = padded_ours if other == "padded" else Peft
        found, texts = _numbers(models, dtype, Ours)
        expected, their_texts = _numbers(models, dtype, theirs)
        apart = _apart(models, dtype, found, expected)
        pairs = zip(itertools.chain(*texts), itertools.chain(*their_texts), strict=True)
        alike = [one == another for one, another in pairs]
        share = sum(alike) / len(alike)
        if dtype == torch.float32 and share < 1:
            raise InexactError(f"{share:.0%} of greedily generated tokens are equal, not all")
        return {**apart, "equal tokens": f"{share:.0%}"}

    return compare


def _trying(models: Models, dtype: torch.dtype, backend: str) -> Callable[[], dict[str, Any]]:
    def attempt() -> dict[str, Any]:
        config = models.of(dtype).config
        device = torch.device(models.device).type
        kind = StateKind(device, frozenset({dtype}), frozenset({config.head_dim}))
        if (reason := BACKENDS[backend].why_not(kind)) is not None:
            return {"skipped": reason}
        if (reason := why_not(backend, kind)) is not None:
            raise InexactError(reason)
        expected, _ = _numbers(models, dtype, padded_ours)
        use_backend(backend)
        try:
            found, _ = _numbers(models, dtype, Ours)
        finally:
            use_backend(AUTO)
        return _apart(models, dtype, found, expected)

    return attempt


def _numbers(
    models: Models, dtype: torch.dtype, make: Make
) -> tuple[dict[str, torch.Tensor], list[list[int]]]:
    """Logits, the prefix's gradient and greedy texts."""
    frozen, rows = models.of(dtype), models.rows()
    system = make(frozen, start_of(frozen, _PREFIX))
    try:
        with torch.no_grad():
            logits = system.logits(rows).float()
        targets = sum(len(row["input_ids"]) - row["target_start"] for row in rows)
        system.loss(rows, 1 / targets).backward()
        numbers = {"logits": logits, "gradient": system.gradient().float().clone()}
        return numbers, system.texts(rows, _NEW_TOKENS)
    finally:
        system.leave()


def _apart(
    models: Models,
    dtype: torch.dtype,
    found: dict[str, torch.Tensor],
    expected: dict[str, torch.Tensor],
) -> dict[str, Any]:
    """How far numbers are apart. Raises InexactError for more than rounding explains."""
    if dtype == torch.float32:
        apart = {name: share_apart(found[name], expected[name]) for name in found}
        for name, share in apart.items():
            if not share < _TOLERANCES[name]:
                raise InexactError(f"{name}: {share:.1e} of the largest apart")
        return {name: f"{share:.1e}" for name, share in apart.items()}
    exact, _ = _numbers(models, torch.float32, padded_ours)
    said = {}
    for name in found:
        ours, theirs = (_norm(one[name], exact[name]) for one in (found, expected))
        if not ours < _MORE * theirs + 1e-3:
            raise InexactError(f"{name}: off by {ours:.1e} of float32's, the other {theirs:.1e}")
        said[name] = f"{ours:.1e} from float32, the other {theirs:.1e}"
    return said


def share_apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference as a share of the largest number."""
    return float((one - other).abs().max() / other.abs().max())


def _norm(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())
