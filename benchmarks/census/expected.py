"""What a frozen model itself gives for a text with inputs after it: the truth for every prefix."""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from benchmarks.census.attempts import NotMeasuredError, Problem, attempt
from benchmarks.census.configurations import ORDINARY

TEXT_LENGTH, INPUT_LENGTH, NEW_TOKENS = 12, 14, 4
"""Tokens of the text, of an input, and those generated; windows are of 8."""
_ROW_LENGTHS = (9, 5, 14)

Generated = tuple[torch.Tensor, torch.Tensor]
"""Token ids `[rows, NEW_TOKENS]` and logits `[rows, NEW_TOKENS, vocabulary]` that chose them."""


@dataclass(frozen=True)
class Expected:
    """The inputs of all checks, and the model's own numbers for them.

    Attributes:
        text: token ids `[TEXT_LENGTH]`.
        ids: inputs of one length, `[2, tokens]`.
        others: what the model is given beside tokens, for these inputs.
        logits: for `ids` after the text; `bare` without it.
        greedy: the best next tokens after `ids`, each from a pass over everything, no cache.
        own: the same by the model's own `generate`.
        rows: inputs of several lengths, with `row_logits`, `row_greedy` and `row_own` for each
            alone.
        left_padded: the largest error of the model itself where such rows are padded on the left;
            left_generated, of the tokens that it generates then.
    """

    text: torch.Tensor
    ids: torch.Tensor
    others: dict[str, torch.Tensor]
    logits: torch.Tensor
    bare: torch.Tensor
    greedy: Generated
    own: Generated | Problem
    rows: list[torch.Tensor]
    row_logits: list[torch.Tensor]
    row_greedy: Generated | None
    row_own: Generated | Problem
    left_padded: float | Problem
    left_generated: float | Problem

    @property
    def effect(self) -> float:
        """How much the text changes a logit at the most."""
        return gap(self.logits, self.bare)


@torch.no_grad()
def expected_of(
    model: PreTrainedModel, ids: torch.Tensor | None = None, others: Any = None
) -> Expected:
    """What the model gives; `ids` and `others` of inputs with an image, where they have one.

    Raises whatever the model raises, for example where it does not run on tokens alone.
    """
    draw = torch.Generator().manual_seed(5)

    def tokens(*shape: int) -> torch.Tensor:
        return torch.randint(ORDINARY.start, ORDINARY.stop, shape, generator=draw)

    text, drawn, others = tokens(TEXT_LENGTH), tokens(2, INPUT_LENGTH), others or {}
    ids = drawn if ids is None else ids
    whole, given = torch.cat([text.expand(len(ids), -1), ids], 1), after_text(others, ids)
    rows = [] if others else [tokens(length) for length in _ROW_LENGTHS]
    after = [torch.cat([text, row])[None] for row in rows]
    by_row = [greedy_of(model, row, {}) for row in after]
    row_greedy = (cat(by_row, 0), cat(by_row, 1)) if by_row else None
    return Expected(
        text=text,
        ids=ids,
        others=others,
        logits=model(input_ids=whole, **given).logits[:, TEXT_LENGTH:],
        bare=model(input_ids=ids, **others).logits,
        greedy=greedy_of(model, whole, given),
        own=attempt(lambda: generated(model, whole, torch.ones_like(whole), given)),
        rows=rows,
        row_logits=[model(input_ids=row).logits[0, TEXT_LENGTH:] for row in after],
        row_greedy=row_greedy,
        row_own=(row_own := attempt(lambda: _own_of(model, after))),
        left_padded=attempt(lambda: _left_padded(model, after)) if rows else 0.0,
        left_generated=attempt(lambda: _left_generated(model, after, row_greedy, row_own)),
    )


def _own_of(model: Any, rows: list[torch.Tensor]) -> Generated:
    """What a model's own `generate` writes after each row alone."""
    if not rows:
        raise NotMeasuredError("there are no rows of several lengths")
    by_row = [generated(model, row, torch.ones_like(row), {}) for row in rows]
    return cat(by_row, 0), cat(by_row, 1)


def cat(parts: list[Generated], which: int) -> torch.Tensor:
    """The tokens (0) or logits (1) of several generations as rows of one."""
    return torch.cat([part[which] for part in parts])


def after_text(others: dict[str, torch.Tensor], ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """A call's inputs beside tokens, of which some have an entry for each token, after a text."""
    return {
        name: torch.cat([value.new_zeros(len(value), TEXT_LENGTH, *value.shape[2:]), value], 1)
        if value.shape[:2] == ids.shape
        else value
        for name, value in others.items()
    }


def greedy_of(model: Any, ids: torch.Tensor, others: dict[str, torch.Tensor]) -> Generated:
    """Greedy decoding without any cache, of ordinary tokens, as in `generated`."""
    logits: list[torch.Tensor] = []
    length = ids.shape[1]
    for _ in range(NEW_TOKENS):
        last = model(input_ids=ids, **others).logits[:, -1:]
        logits.append(last.clone())
        last[..., _suppressed(model)] = -torch.inf
        # What follows an image is text, and sees what the last token saw.
        others = {
            name: torch.cat([value, value[:, -1:]], 1) if value.shape[:2] == ids.shape else value
            for name, value in others.items()
        }
        ids = torch.cat([ids, last.argmax(-1)], 1)
    return ids[:, length:], torch.cat(logits, 1)


def generated(
    model: Any, ids: torch.Tensor, mask: torch.Tensor, others: dict[str, torch.Tensor]
) -> Generated:
    """By a model's own `generate`: no token ends it, or stands for an image."""
    out = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=NEW_TOKENS,
        min_new_tokens=NEW_TOKENS,
        do_sample=False,
        suppress_tokens=_suppressed(model),
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
        **others,
    )
    return out.sequences[:, -NEW_TOKENS:], torch.stack(out.logits, 1)


def padded(rows: list[torch.Tensor], side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows as one batch of ids and its mask, padded with 0 on a side."""
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        at = slice(width - len(row), width) if side == "left" else slice(len(row))
        ids[index, at], mask[index, at] = row, 1
    return ids, mask


def gap(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference; infinite where a number is not finite."""
    difference = (found.float() - wanted.float()).abs().max().item()
    return difference if difference == difference else float("inf")


def generated_gap(found: Generated, wanted: Generated) -> float:
    """The largest difference of the logits that chose the same tokens; infinite for others."""
    same = torch.equal(found[0], wanted[0])
    return gap(found[1], wanted[1]) if same else float("inf")


def best_gap(found: Generated, greedy: Generated, own: Generated | Problem) -> float:
    """The smaller difference, where a model's own `generate` is not its own greedy decoding."""
    wanted = [greedy] if isinstance(own, Problem) else [greedy, own]
    return min(generated_gap(found, one) for one in wanted)


def row_gap(logits: torch.Tensor, mask: torch.Tensor, wanted: list[torch.Tensor]) -> float:
    """The largest difference at the tokens of padded rows."""
    return max(
        gap(row[seen.bool()], want) for row, seen, want in zip(logits, mask, wanted, strict=True)
    )


def _left_padded(model: Any, rows: list[torch.Tensor]) -> float:
    ids, mask = padded([row[0] for row in rows], "left")
    given = {"attention_mask": mask}
    if "position_ids" in inspect.signature(model.forward).parameters:
        given["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    alone = [model(input_ids=row).logits[0] for row in rows]
    return row_gap(model(input_ids=ids, **given).logits, mask, alone)


def _left_generated(
    model: Any, rows: list[torch.Tensor], greedy: Generated | None, own: Generated | Problem
) -> float:
    if greedy is None:
        return 0.0
    ids, mask = padded([row[0] for row in rows], "left")
    return best_gap(generated(model, ids, mask, {}), greedy, own)


def _suppressed(model: Any) -> list[int]:
    """The tokens that have a meaning."""
    vocabulary = model.config.get_text_config().vocab_size
    return [token for token in range(vocabulary) if token not in ORDINARY]
