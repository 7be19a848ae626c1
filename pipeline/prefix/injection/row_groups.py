"""Rows of a batch that one pass of a model cannot compute, by a pass for each length.

Padding that stands before a row changes what layers that recur compute of it, and the places that
some models count. So rows with equal padding before them are computed together, without it, and
what comes out stands again at their columns: for every row what it is alone. Their caches are put
together, zeros in the place of padding, or kept apart where a model counts places in its cache.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import cross_entropy, pad
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DummyLayer

from pipeline.prefix.errors import PrefixError
from pipeline.prefix.injection.apart import CachesApart, RowGroup
from pipeline.prefix.injection.cache import PrefixCache

_PER_TOKEN = ("input_ids", "inputs_embeds", "labels")
_PER_BATCH = ("num_items_in_batch",)
# What is of a batch as a whole, or of pairs of columns.
_REFUSED = ("output_attentions", "output_router_logits")
_LABELS = "labels"
_IGNORED = -100


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
    joins: Callable[[], bool],
    ordered: bool,
) -> Any:
    """The output of a forward call, in the model's own class, and its cache filled.

    Zeros stand at columns of padding. The loss is the mean over all labels, as the model's own is.

    Args:
        model: under a prefix, whose hooks give each pass its own.
        given: the call's inputs by name, `attention_mask` `[batch, tokens]` among them, those that
            are cached included.
        cache: empty, or with the caches of rows apart.
        cache_name: the argument that takes it.
        joins: says whether decoding may go on from the caches of all groups put together.
        ordered: whether padding stands before the prefix's keys (`Layout.order`).

    Raises PrefixError for inputs that cannot be cut, and outputs that cannot be put together.
    """
    mask: torch.Tensor = given["attention_mask"]
    apart = cache.apart
    groups = row_groups(mask) if apart is None else apart.groups
    caches = [cache.anew() for _ in groups] if apart is None else apart.caches
    tokens = mask.shape[1] - (0 if apart is None else cache.tokens)
    name = type(model).__name__
    _refuse_of_the_whole(model, given)
    kept = given.get("logits_to_keep")
    as_tuple = given.get("return_dict") is False or model.config.return_dict is False
    parts, outputs = [], []
    for group, own in zip(groups, caches, strict=True):
        skipped = group.leading if apart is None else 0
        part = {
            key: _cut(key, value, group.rows, skipped, (len(mask), tokens), name)
            for key, value in given.items()
            if key not in (cache_name, "attention_mask")
        }
        part |= {"attention_mask": mask[group.rows, group.leading :], cache_name: own}
        if "return_dict" in part or as_tuple:
            part["return_dict"] = True
        parts.append(part)
        outputs.append(model(**part))
    padding = [group.leading if apart is None else 0 for group in groups]
    together = _Together(groups, padding, tokens, name)
    if apart is None and cache.growing:
        if joins():
            _join(cache, caches, padding, together.places, ordered)
        else:
            cache.apart = CachesApart(groups, caches)
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


def _join(
    cache: PrefixCache,
    parts: list[PrefixCache],
    leading: list[int],
    places: torch.Tensor,
    ordered: bool,
) -> None:
    """Put caches of groups together, zeros before the prefix's keys where `ordered`, else behind.

    `places` `[batch]` says where each row stands among theirs.
    """
    cache.is_joined = True
    at = 0 if ordered else cache.prefix_length
    for index, layer in enumerate(cache.layers):
        if not isinstance(layer, DummyLayer):
            layer.join([part.layers[index] for part in parts], leading, places, at)


def _refuse_of_the_whole(model: PreTrainedModel, given: dict[str, Any]) -> None:
    for asked in _REFUSED:
        own = getattr(model.config, asked, False)
        if own if given.get(asked) is None else given[asked]:
            raise PrefixError(
                f"{asked}: {type(model).__name__} is computed by groups of rows where padding "
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


def _cut(
    key: str, value: Any, rows: torch.Tensor, skipped: int, shape: tuple[int, int], name: str
) -> Any:
    """What some rows are given of an input `[batch, tokens]`, without the padding before them."""
    if isinstance(value, bool | int | float | str) or key in _PER_BATCH or _holds_nothing(value):
        return value
    if isinstance(value, torch.Tensor):
        rows = rows.to(value.device)
        if key == "position_ids":
            cut = value[..., skipped:]
            return cut if cut.ndim < 2 or cut.shape[-2] == 1 else cut[..., rows, :]
        # Types of tokens, and other numbers that there is one of for each.
        typed = value.ndim == 2 and not value.is_floating_point()
        if (key in _PER_TOKEN or typed) and tuple(value.shape[:2]) == shape:
            return value[rows, skipped:]
    raise PrefixError(
        f"{name} is computed by groups of rows where padding stands before them, and {key} cannot "
        "be cut into groups; give rows of one length"
    )


def _holds_nothing(value: Any) -> bool:
    """Whether an input says that there is nothing, as of images in a generation of text."""
    if isinstance(value, dict):
        return all(map(_holds_nothing, value.values()))
    return value is None or (isinstance(value, tuple | list) and all(map(_holds_nothing, value)))


class _Together:
    """Outputs of groups as those of the batch whose rows they are."""

    def __init__(self, groups: list[RowGroup], padding: list[int], tokens: int, name: str) -> None:
        self._padding = padding
        self._rows = [len(group.rows) for group in groups]
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
        columns = [min(width, self._tokens - padding) for padding in self._padding]
        pairs = list(zip(self._rows, columns, strict=True))
        if all(v.ndim > 2 and v.shape[:2] == pair for v, pair in zip(values, pairs, strict=True)):
            values = [
                pad(value, (0, 0) * (value.ndim - 2) + (width - value.shape[1], 0))
                for value in values
            ]
        elif [len(value) for value in values] != self._rows:
            raise self._refusal(key)
        whole = torch.cat(values)
        return whole[self.places.to(whole.device)]

    def _refusal(self, key: str) -> PrefixError:
        return PrefixError(
            f"{self._name} is computed by groups of rows where padding stands before them, and "
            f"{key} of the batch cannot be made of theirs; leave it out, or give rows of one length"
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
