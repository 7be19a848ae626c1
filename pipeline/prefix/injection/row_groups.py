"""Rows of a batch that one pass of a model cannot compute, by a pass for each length.

Padding that stands before a row changes what layers that recur compute of it, and the places that
some models count. So rows with equal padding before them are computed together, without it, and
what comes out stands again at their columns: for every row what it is alone.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy, pad
from transformers import Cache, PreTrainedModel

from pipeline.prefix.errors import PrefixError
from pipeline.prefix.injection.cache import PrefixCache

_PER_TOKEN = ("input_ids", "inputs_embeds", "attention_mask", "labels")
_PER_BATCH = ("num_items_in_batch",)
# What is of a batch as a whole, or of pairs of columns.
_REFUSED = ("output_attentions", "output_router_logits")
_LABELS = "labels"
_IGNORED = -100


@dataclass(frozen=True)
class RowGroup:
    """Rows `[n]` of a batch, with so many columns of padding before each."""

    rows: torch.Tensor
    leading: int


def row_groups(mask: torch.Tensor) -> list[RowGroup]:
    """The rows of a mask `[batch, tokens]` by the padding before them.

    Raises PrefixError for a row of padding alone.
    """
    if not bool(mask.bool().any(-1).all()):
        raise PrefixError("attention_mask hides every token of a row; leave that row out")
    leading = mask.long().argmax(-1)
    return [RowGroup((leading == n).nonzero()[:, 0], n) for n in leading.unique().tolist()]


def computed_in_groups(
    model: PreTrainedModel,
    given: dict[str, Any],
    cache: PrefixCache,
    cache_name: str,
    ordered: bool,
) -> Any:
    """The output of a forward call, in the model's own class, and its cache filled.

    Zeros stand at columns of padding. The loss is the mean over all labels, as the model's own is.

    Args:
        model: under a prefix, whose hooks give each pass its own.
        given: the call's inputs by name, `attention_mask` `[batch, tokens]` among them.
        cache: to be filled where it grows; empty.
        cache_name: the argument that takes it.
        ordered: whether padding stands before the prefix's keys (`Layout.order`).

    Raises PrefixError for inputs that cannot be cut, and outputs that cannot be put together.
    """
    mask: torch.Tensor = given["attention_mask"]
    groups = row_groups(mask)
    name = type(model).__name__
    _refuse_of_the_whole(model, given)
    kept = given.get("logits_to_keep")
    as_tuple = given.get("return_dict") is False or model.config.return_dict is False
    parts, outputs = [], []
    for group in groups:
        part = {key: _cut(key, value, group, mask.shape, name) for key, value in given.items()}
        part |= {cache_name: cache.anew()}
        if "return_dict" in part or as_tuple:
            part["return_dict"] = True
        parts.append(part)
        outputs.append(model(**part))
    together = _Together(groups, mask.shape[1], name)
    cache.join(
        [part[cache_name] for part in parts],
        [group.leading for group in groups],
        together.places,
        ordered,
    )
    found: dict[str, Any] = {}
    for key in outputs[0]:
        values = [output[key] for output in outputs]
        if key == "loss":
            found[key] = _loss(parts, outputs, name)
        elif isinstance(values[0], Cache):
            found[key] = cache
        else:
            found[key] = together.of(key, values, kept if key == "logits" else None)
    output = type(outputs[0])(**found)
    return output.to_tuple() if as_tuple else output


def _refuse_of_the_whole(model: PreTrainedModel, given: dict[str, Any]) -> None:
    for asked in _REFUSED:
        own = getattr(model.config, asked, False)
        if own if given.get(asked) is None else given[asked]:
            raise PrefixError(
                f"{asked}: {type(model).__name__} is computed by groups of rows here, whose padding "
                "stands before them, and has none of the whole batch; give rows of one length"
            )
    if (labels := given.get(_LABELS)) is None:
        return
    if labels.ndim != 2 or given.get("logits_to_keep"):
        raise PrefixError(
            f"{type(model).__name__} is computed by groups of rows where padding stands before "
            "them, whose loss is of labels [batch, tokens] and of all logits; compute it from the "
            "logits, or give rows of one length"
        )


def _cut(key: str, value: Any, group: RowGroup, shape: torch.Size, name: str) -> Any:
    """What a group is given of an input, without the padding before its rows."""
    if value is None or isinstance(value, bool | int | float | str) or key in _PER_BATCH:
        return value
    if isinstance(value, torch.Tensor):
        rows = group.rows.to(value.device)
        if key == "position_ids":
            cut = value[..., group.leading :]
            return cut if cut.ndim < 2 or cut.shape[-2] == 1 else cut[..., rows, :]
        # Types of tokens, and other numbers that there is one of for each.
        typed = value.ndim == 2 and not value.is_floating_point()
        if (key in _PER_TOKEN or typed) and value.shape[:2] == shape:
            return value[rows, group.leading :]
    if isinstance(value, Cache):
        return value
    raise PrefixError(
        f"{name} is computed by groups of rows where padding stands before them, and {key} cannot "
        "be cut into groups; give rows of one length"
    )


class _Together:
    """Outputs of groups as those of the batch whose rows they are."""

    def __init__(self, groups: list[RowGroup], tokens: int, name: str) -> None:
        self._groups = groups
        self._tokens = tokens
        self._name = name
        self.places = torch.cat([group.rows for group in groups]).argsort()
        """Where each row of the batch stands among those of the groups, `[batch]`."""

    def of(self, key: str, values: list[Any], kept: int | None) -> Any:
        """An output of each group, `kept` of its last columns alone unless that is 0 or None."""
        if isinstance(values[0], tuple | list):
            return tuple(self.of(key, list(of), kept) for of in zip(*values, strict=True))
        if not all(isinstance(value, torch.Tensor) and value.ndim for value in values):
            raise self._refusal(key)
        width = min(kept or self._tokens, self._tokens)
        columns = [min(width, self._tokens - group.leading) for group in self._groups]
        rows = [len(group.rows) for group in self._groups]
        pairs = list(zip(rows, columns, strict=True))
        if all(v.ndim > 2 and v.shape[:2] == pair for v, pair in zip(values, pairs, strict=True)):
            values = [
                pad(value, (0, 0) * (value.ndim - 2) + (width - value.shape[1], 0))
                for value in values
            ]
        elif [len(value) for value in values] != rows:
            raise self._refusal(key)
        whole = torch.cat(values)
        return whole[self.places.to(whole.device)]

    def _refusal(self, key: str) -> PrefixError:
        return PrefixError(
            f"{self._name} is computed by groups of rows where padding stands before them, of whose "
            f"{key} none of the batch can be made; leave it out, or give rows of one length"
        )


def _loss(parts: list[dict[str, Any]], outputs: list[Any], name: str) -> torch.Tensor:
    """The loss of all rows: the mean over their labels, or their sum by `num_items_in_batch`.

    Raises PrefixError where a group's own is neither: it may then be of the rows as a whole.
    """
    whole: list[torch.Tensor] = []
    counts = [int((part[_LABELS][:, 1:] != _IGNORED).sum()) for part in parts]
    items = parts[0].get("num_items_in_batch")
    total = sum(counts)
    for part, output, count in zip(parts, outputs, counts, strict=True):
        if not count:
            continue
        summed = _summed(output.logits, part[_LABELS])
        if items is not None and _is(output.loss, summed / float(items)):
            whole.append(output.loss)
        elif _is(output.loss, summed / count):
            whole.append(output.loss * (count / total))
        else:
            raise PrefixError(
                f"{name}'s loss is more than the mean over labels, and rows are computed by groups "
                "where padding stands before them; compute it from the logits, or give rows of one "
                "length"
            )
    # Of no label at all a mean is no number either.
    return torch.stack(whole).sum() if whole else torch.stack([o.loss for o in outputs]).sum()


@torch.no_grad()
def _summed(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    shifted = pad(labels, (0, 1), value=_IGNORED)[:, 1:].flatten()
    return cross_entropy(
        logits.float().flatten(0, 1),
        shifted.to(logits.device),
        ignore_index=_IGNORED,
        reduction="sum",
    )


def _is(loss: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.allclose(loss.detach().float(), expected.to(loss.device), rtol=1e-3, atol=1e-6)
