"""The method's laws in float32: a text's cache is the text, on a GPU as on a CPU."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.cuda.exactness import InexactError, Models, share_apart
from benchmarks.cuda.systems import Ours, Rows
from pipeline.prefix import KVPrefix, kv_prefix_from_tokens

_TEXT, _NEW_TOKENS = 32, 16
_TOLERANCE = 1e-3

Check = tuple[str, Callable[[], dict[str, Any]]]


def laws(models: Models) -> Iterator[Check]:
    """Each with its name."""
    yield "exact, float32: identity with the text in the context", lambda: _identity(models)
    yield "exact, float32: gradient with checkpointing", lambda: _checkpointing(models)
    if torch.device(models.device).type != "cpu":
        yield "exact, float32: gradient on a CPU", lambda: _on_cpu(models)


def _start(models: Models) -> tuple[torch.Tensor, KVPrefix]:
    """A text, and its keys and values."""
    frozen = models.of(torch.float32)
    draw = torch.Generator().manual_seed(3)
    text = torch.randint(100, frozen.config.vocab_size, (_TEXT,), generator=draw)
    return text.to(frozen.device), kv_prefix_from_tokens(frozen, text.to(frozen.device))


def _identity(models: Models) -> dict[str, Any]:
    frozen, rows = models.of(torch.float32), models.rows()[:1]
    text, start = _start(models)
    ids = torch.tensor(rows[0]["input_ids"], device=frozen.device)
    shown = ids[: rows[0]["target_start"]]
    whole = torch.cat([text, shown])[None]
    expected = frozen(input_ids=torch.cat([text, ids])[None]).logits[0, len(text) :]
    theirs = frozen.generate(
        whole,
        attention_mask=torch.ones_like(whole),
        max_new_tokens=_NEW_TOKENS,
        do_sample=False,
        pad_token_id=0,
    )[0, whole.shape[1] :].tolist()
    found = {}
    for name, packs in (("packed", True), ("padded", False)):
        system = Ours(frozen, start, packs)
        with torch.no_grad():
            found[name] = share_apart(system.logits(rows), expected)
        equal = system.texts(rows, _NEW_TOKENS) == [theirs]
        system.leave()
        if not equal:
            raise InexactError(f"{name}: another text is generated than with the text in context")
    return _within(found)


def _checkpointing(models: Models) -> dict[str, Any]:
    _, start = _start(models)
    frozen, found = models.of(torch.float32), {}
    for name, packs in (("packed", True), ("padded", False)):
        system = Ours(frozen, start, packs)
        before = _gradient(system, models.rows())
        system.model.gradient_checkpointing_enable()
        system.model.train()
        found[name] = share_apart(_gradient(system, models.rows()), before)
        system.model.gradient_checkpointing_disable()
        system.model.eval()
        system.leave()
    return _within(found)


def _on_cpu(models: Models) -> dict[str, Any]:
    _, start = _start(models)
    frozen, rows = models.of(torch.float32), models.rows()[:2]
    system = Ours(frozen, start)
    here = _gradient(system, rows)
    system.leave()
    elsewhere = copy.deepcopy(frozen).cpu()
    there = _gradient(Ours(elsewhere, start.to("cpu"), packs=False), rows)
    return _within({"gradient": share_apart(here.cpu(), there)})


def _gradient(system: Ours, rows: Rows) -> torch.Tensor:
    for parameter in system.parameters():
        parameter.grad = None
    system.loss(rows, 1.0).backward()
    return system.gradient().float().clone()


def _within(found: dict[str, float]) -> dict[str, Any]:
    for name, share in found.items():
        if not share < _TOLERANCE:
            raise InexactError(f"{name}: {share:.1e} of the largest apart")
    return {name: f"{share:.1e}" for name, share in found.items()}
