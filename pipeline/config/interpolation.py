"""Values that DVC would not leave as they are: `dvc exp run -S` takes `${` for an interpolation.

DVC sets a value by Hydra's OmegaConf, which resolves every string of params.yaml on the way. Most
that hold `${` end there in a grammar error; `${train.learning_rate}`, `${oc.env:HOME}` and `\\${`
it would replace without a word, and "???" is a value that is missing. `dvc repro` minds neither.
"""

from collections.abc import Iterator
from typing import Any

_MISSING = "???"


def refused_by_dvc(raw: Any) -> Iterator[str]:
    """A sentence, without its full stop, for each value that `dvc exp run -S` would trip over."""
    for key, value in _strings(raw):
        if value == _MISSING:
            yield f"{key} = '{_MISSING}' is no value to `dvc exp run -S`; write another"
        elif "${" in value:
            at = value.index("${")
            fix = "in Jinja2 write {{ '$' }} for the $" if "template" in key else "leave it out"
            yield (
                f"{key}: '{' '.join(value[at : at + 12].split())}' is an interpolation to "
                f"`dvc exp run -S`, which fails on it or replaces it; {fix}"
            )


def _strings(raw: Any) -> Iterator[tuple[str, str]]:
    """Every string below a mapping, with its key's path; what has several aliases once."""
    waiting, seen = [("", raw)], set()
    while waiting:
        path, node = waiting.pop()
        if isinstance(node, str):
            yield path, node
        elif isinstance(node, dict | list) and id(node) not in seen:
            seen.add(id(node))
            items = node.items() if isinstance(node, dict) else enumerate(node)
            below = [(f"{path}.{key}" if path else str(key), value) for key, value in items]
            waiting.extend(reversed(below))
