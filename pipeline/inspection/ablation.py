"""What a prefix is worth without some of it: virtual tokens, layers, or what training did.

A virtual token is left out by a mask: no query attends to it, and the input stays at its
positions. A layer is left out as all of its virtual tokens. What training did to keys is left out
by the start's keys beside the trained values, and the reverse (Diaz 2025, arXiv 2508.17032,
exchanges keys between tasks).
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pandas as pd

from pipeline.inspection.blocks import MOST_GROUPS, blocks
from pipeline.inspection.movement import ALONE
from pipeline.prefix import KVPrefix, PrefixModel
from pipeline.progress.bar import Bar

Loss = Callable[[PrefixModel], float]
"""A model's loss on the examples, nats per target token."""


def ablation(
    model: PrefixModel, loss: Loss, start: KVPrefix | None, title: str | None = "ablation"
) -> pd.DataFrame:
    """The loss without each virtual token, each layer's prefix, and what training did.

    Columns: without (nothing, prefix, tokens, layers, trained keys, trained values, training),
    part (of layers), first and last (of the block of tokens or layers), loss, and increase over
    the loss without nothing. The last three kinds need the `start`. `title` shows a progress bar.
    """
    rows: list[dict[str, object]] = []
    tried = list(_tried(model, start))
    with Bar(len(tried), title or "", "evaluation", shown=title is not None) as bar:
        for row, measured in tried:
            rows.append({**row, "loss": measured(loss)})
            bar.update()
    table = pd.DataFrame(rows).astype({"first": "Int64", "last": "Int64"})
    table["increase"] = table["loss"] - table["loss"].iloc[0]
    return table[["without", "part", "first", "last", "loss", "increase"]]


Row = dict[str, object]


def _tried(
    model: PrefixModel, start: KVPrefix | None
) -> Iterator[tuple[Row, Callable[[Loss], float]]]:
    kv = model.kv_prefix()
    assert kv is not None

    def hiding(tokens: list[int] | None, places: list[int] | None) -> Callable[[Loss], float]:
        def measured(loss: Loss) -> float:
            with model.without(tokens, places):
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
    yield {"without": "prefix", **nothing}, hiding(None, None)
    if start is not None:
        yield {"without": "training", **nothing}, exchanged(start)
        yield {"without": "trained keys", **nothing}, exchanged(replace(kv, keys=start.keys))
        yield {"without": "trained values", **nothing}, exchanged(replace(kv, values=start.values))
    for block in blocks(len(kv)):
        ends: Row = {"part": None, "first": block[0], "last": block[-1]}
        yield {"without": "tokens", **ends}, hiding(list(block), None)
    for part in dict.fromkeys(part for part, _ in kv.places):
        own = [at for at, place in enumerate(kv.places) if place[0] == part]
        for block in blocks(len(own), MOST_GROUPS // len(set(kv.parts or (part,)))):
            places = [own[index] for index in block]
            layers = [kv.places[at][1] for at in places]
            ends = {"part": part or ALONE, "first": layers[0], "last": layers[-1]}
            yield {"without": "layers", **ends}, hiding(None, places)
