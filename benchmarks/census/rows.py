"""The rows of the census: what the installed transformers knows, and how it is configured."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from benchmarks.census.configurations import settings, tiny_config

GROUPS = {
    "causal": "Causal model types",
    "variants": "Other configurations of these types",
    "composites": "Multimodal types, given text alone",
    "images": "Multimodal types, given an image",
}
"""What a group is called in the page."""


@dataclass(frozen=True)
class Row:
    """A model to be tried.

    Attributes:
        name: unique within the group.
        group: one of `GROUPS`.
        model_type: the type in transformers' mappings.
        changes: of the tiny configuration.
        auto_class: the class of transformers that makes the model.
    """

    name: str
    group: str
    model_type: str
    changes: dict[str, Any] = field(default_factory=dict)
    auto_class: str = "AutoModelForCausalLM"


def all_rows() -> list[Row]:
    """The rows of every group; those of two groups come from transformers' own mappings."""
    vision = "AutoModelForImageTextToText"
    rows = [Row(name, "causal", name) for name in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)]
    for name, changes in settings()["variants"].items():
        rows.append(Row(name, "variants", _type_of(name), changes))
    composites: dict[str, dict[str, Any]]
    composites = {name: {} for name in sorted(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)}
    composites |= settings()["composites"]
    for group in ("composites", "images"):
        for name, changes in composites.items():
            rows.append(Row(name, group, _type_of(name), changes, vision))
    return rows


def _type_of(name: str) -> str:
    """Of `falcon (ALiBi)` falcon."""
    return name.partition(" (")[0]


def shard_of(rows: Iterable[Row], index: int, count: int) -> list[Row]:
    """One of `count` parts of the rows, counted from 1; the first has one row of each family.

    A family has the same kinds of layers, by its configuration. A type whose configuration cannot
    be made is a family of its own.
    """
    families: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        families[row.group, family_of(row)].append(row)
    chosen = [row for family in families.values() for row in family[index - 1 :: count]]
    return sorted(chosen, key=lambda row: (list(GROUPS).index(row.group), row.name))


def family_of(row: Row) -> tuple[str, ...]:
    """What of a type's configuration decides how a prefix meets it: its layers and its cache."""
    try:
        config = tiny_config(row.model_type, row.changes).get_text_config()
    except Exception:  # a class refuses in any way it likes, and its row will say so
        return (row.name,)
    held = vars(config)
    kinds = getattr(config, "layer_types", None) or held.get("layers_block_type") or ()
    marks = [name for name in settings()["family"] if held.get(name) not in (None, False, 0)]
    return (*sorted(set(map(str, kinds))), *marks)
