"""What was found in a prefix, in two tables a person reads: by layer, and by virtual token."""

import pandas as pd

Tables = dict[str, pd.DataFrame]

LAYER = ["part", "layer"]
MOVED = {"keys": "key_moved", "values": "value_moved", "states": "state_moved"}
"""The columns of `by_layer` that say how far what was moved; of a model without states two."""

_OF_TOKENS = ("key", "value")

_SPACE = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"}


def by_layer(tables: Tables) -> pd.DataFrame:
    """A row for each layer of each part.

    Columns: part, layer, and what could be measured of key_moved, value_moved and state_moved
    (shares of the start's norm, those of a layer's states together), attention (share that inputs
    pay to the prefix), and increase (of the loss without the prefix in this layer, or in the block
    of layers that it is of).
    """
    found: list[pd.Series] = []
    if "movement" in tables:
        moved = tables["movement"]
        of_tokens = moved[moved["tensor"].isin(_OF_TOKENS)]
        wide = of_tokens.pivot(index=LAYER, columns="tensor", values="relative")
        every = pd.MultiIndex.from_frame(moved[LAYER].drop_duplicates()).sort_values()
        found += [wide[name].rename(f"{name}_moved").reindex(every) for name in wide]
        if len(of_tokens) < len(moved):
            states = _together(moved[~moved["tensor"].isin(_OF_TOKENS)], LAYER)
            found.append(states.rename("state_moved").reindex(every))
    if "attention_of_layers" in tables:
        seen = tables["attention_of_layers"].set_index(LAYER)
        found.append(seen["prefix"].rename("attention"))
    if "ablation" in tables:
        blocks = tables["ablation"].query("without == 'layers'")
        increase = {
            (row["part"], layer): row["increase"]
            for row in blocks.to_dict("records")
            for layer in range(row["first"], row["last"] + 1)
        }
        places = found[0].index if found else pd.MultiIndex.from_tuples(increase, names=LAYER)
        values = pd.Series({at: increase.get(at) for at in places}, name="increase")
        found.append(values.rename_axis(LAYER))
    if not found:
        return pd.DataFrame(columns=LAYER)
    parts = list(dict.fromkeys(found[0].index.get_level_values("part")))
    table = pd.concat(found, axis=1).reset_index()
    order = table["part"].map(parts.index)
    return table.assign(order=order).sort_values(["order", "layer"]).drop(columns="order")


def by_token(tables: Tables) -> pd.DataFrame:
    """A row for each virtual token.

    Columns: token, and what could be measured of start (the word that it came from), nearest (the
    words that it is nearest to, with their cosines), key_moved and value_moved (of all layers),
    attention (the mean share over layers) and increase (of the loss without it, or the block of
    virtual tokens that it is of).
    """
    found: list[pd.Series] = []
    if "words" in tables:
        words = tables["words"]
        first = words[words["rank"] == 1].set_index("token")
        if first["start"].notna().any():
            found.append(first["start"].map(visible))
        near = words[words["rank"] <= 3]
        shown = near["word"].map(visible) + near["cosine"].map(" {:.2f}".format)
        found.append(shown.groupby(near["token"]).agg(", ".join).rename("nearest"))
    if "movement_of_tokens" in tables:
        moved = tables["movement_of_tokens"]
        relative = _together(moved, ["token", "tensor"])
        found += [relative.xs(name, level="tensor").rename(f"{name}_moved") for name in _OF_TOKENS]
    if "attention" in tables:
        found.append(tables["attention"].groupby("token")["share"].mean().rename("attention"))
    if "ablation" in tables:
        blocks = tables["ablation"].query("without == 'tokens'").to_dict("records")
        increase = {
            token: row["increase"]
            for row in blocks
            for token in range(row["first"], row["last"] + 1)
        }
        found.append(pd.Series(increase, name="increase").rename_axis("token"))
    if not found:
        return pd.DataFrame(columns=["token"])
    return pd.concat(found, axis=1).reset_index()


def _together(moved: pd.DataFrame, by: list[str]) -> pd.Series:
    """The distance of several tensors as a share of their norm, for each of some columns."""
    squares = moved.assign(distance=moved["distance"] ** 2, norm=moved["norm"] ** 2)
    sums = squares.groupby(by)[["distance", "norm"]].sum()
    relative: pd.Series = (sums["distance"] / sums["norm"].where(sums["norm"] > 0)) ** 0.5
    return relative


def losses(tables: Tables) -> dict[str, float]:
    """The loss without nothing, the prefix, training, trained keys, values and states."""
    if "ablation" not in tables:
        return {}
    wholes = tables["ablation"].query("without not in ('tokens', 'layers')")
    return {str(row["without"]): float(row["loss"]) for row in wholes.to_dict("records")}


def visible(word: str) -> str:
    """A word with its white space to be seen, and what a terminal would obey or hide by number."""
    return "".join(
        _SPACE.get(sign) or (sign if sign.isprintable() else f"\\u{ord(sign):04x}") for sign in word
    )
