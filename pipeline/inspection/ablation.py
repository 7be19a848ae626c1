"""What a prefix is worth without some of it: virtual tokens, layers, or what training did.

A virtual token is left out by a mask: no query attends to it, and the input stays at its
positions. A layer is left out as all of its virtual tokens, and its initial state as zeros, which
the frozen model itself begins from: a state is of all virtual tokens together, so that one of them
alone is left out of keys and values only. What training did to keys is left out by the start's keys
beside the trained values, and the reverse (Diaz 2025, arXiv 2508.17032, exchanges keys between
tasks); what it did to states alike.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pandas as pd

from pipeline.inspection.blocks import MOST_GROUPS, blocks
from pipeline.inspection.kept_states import KeptStates
from pipeline.inspection.movement import ALONE
from pipeline.prefix import KVPrefix, PrefixModel
from pipeline.prefix.states import KINDS, has_tokens, layer_of
from pipeline.progress.bar import Bar

Loss = Callable[[PrefixModel], float]
"""A model's loss on the examples, nats per target token."""


def ablation(
    model: PrefixModel, loss: Loss, start: KVPrefix | None, title: str | None = "ablation"
) -> pd.DataFrame:
    """The loss without each virtual token, each layer's prefix, and what training did.

    Columns: without (nothing, prefix, tokens, layers, trained keys, trained values, trained states,
    training), part (of layers), first and last (of the block of tokens or layers), loss, and
    increase over the loss without nothing. The last four kinds need the `start`. `title` shows a
    progress bar.
    """
    tried = list(_tried(model, start))
    losses: list[float] = []
    with Bar(len(tried), title or "", "evaluation", shown=title is not None) as bar:
        kept = KeptStates(model.frozen_model)
        for row, measured in tried:
            if _is_of_a_decoders_layers(row):
                first = int(str(row["first"]))
                losses.append(kept.measured(first, partial(measured, loss)))
            else:
                losses.append(measured(loss))
            bar.update()
        if not kept.agree(partial(loss, model), losses[0]):
            for at, (row, measured) in enumerate(tried):
                if _is_of_a_decoders_layers(row):
                    losses[at] = measured(loss)
    rows = [{**row, "loss": found} for (row, _), found in zip(tried, losses, strict=True)]
    table = pd.DataFrame(rows).astype({"first": "Int64", "last": "Int64"})
    table["increase"] = table["loss"] - table["loss"].iloc[0]
    return table[["without", "part", "first", "last", "loss", "increase"]]


Row = dict[str, object]


def _is_of_a_decoders_layers(row: Row) -> bool:
    """Of a model with an encoder, layers of each part count from 0."""
    return row["without"] == "layers" and row["part"] == ALONE


def _tried(
    model: PrefixModel, start: KVPrefix | None
) -> Iterator[tuple[Row, Callable[[Loss], float]]]:
    kv = model.kv_prefix()
    assert kv is not None

    def hiding(**what: list[int] | None) -> Callable[[Loss], float]:
        def measured(loss: Loss) -> float:
            with model.without(**what):
                return loss(model)

        return measured

    def exchanged(other: KVPrefix) -> Callable[[Loss], float]:
        def measured(loss: Loss) -> float:
            model.load_kv_prefix(other)
            try:
                return loss(model)
            finally:
                model.load_kv_prefix(kv)

        return measured

    nothing: Row = {"part": None, "first": None, "last": None}
    yield {"without": "nothing", **nothing}, lambda loss: loss(model)
    yield {"without": "prefix", **nothing}, hiding()
    if start is not None:
        yield {"without": "training", **nothing}, exchanged(start)
        yield from (
            ({"without": f"trained {what}", **nothing}, exchanged(other))
            for what, other in _partly_trained(kv, start)
        )
    for block in blocks(len(kv)) if kv.keys else ():
        ends: Row = {"part": None, "first": block[0], "last": block[-1]}
        yield {"without": "tokens", **ends}, hiding(tokens=list(block))
    parts = dict.fromkeys(part for part, _ in kv.places) or {None: None}
    for part in parts:
        # Only a model that is a decoder alone recurs.
        states = {layer_of(name) for name in kv.states if not has_tokens(name)}
        places = {place[1]: at for at, place in enumerate(kv.places) if place[0] == part}
        layers = sorted({*places, *states})
        for block in blocks(len(layers), MOST_GROUPS // len(parts)):
            some = [layers[index] for index in block]
            left_out = hiding(
                places=[places[layer] for layer in some if layer in places],
                states=[layer for layer in some if layer in states],
            )
            ends = {"part": part or ALONE, "first": some[0], "last": some[-1]}
            yield {"without": "layers", **ends}, left_out


def _partly_trained(kv: KVPrefix, start: KVPrefix) -> Iterator[tuple[str, KVPrefix]]:
    """The trained prefix with a kind of the start's tensors, where it has others beside them."""
    if kv.keys:
        yield "keys", replace(kv, keys=start.keys)
        yield "values", replace(kv, values=start.values)
    if kv.kinds == KINDS:
        yield "states", replace(kv, states=start.states)
