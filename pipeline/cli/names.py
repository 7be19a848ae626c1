"""Names out of params.yaml and data/, as a shell completes them.

Files are read and no library: a shell asks at every key. What cannot be read completes nothing.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from pipeline.sweep.variants import BEST, Variant
from pipeline.workspace import paths

Complete = Callable[[click.Context, click.Parameter, str], list[Any]]


def _params() -> dict[str, Any]:
    from pipeline.config.load import read_yaml

    return read_yaml(paths.PARAMS)


def _variants() -> Iterable[str]:
    """The best, those trained, those of the sweep that are still to be, and imported adapters."""
    yield BEST
    yield from sorted(path.parent.name for path in paths.TRAIN.glob("*/prefix.safetensors"))
    yield from _sweep()
    baselines = _params().get("baselines", {}).items()
    yield from (name for name, baseline in baselines if baseline.get("type") == "adapter")


def _stages() -> Iterable[str]:
    """Groups of dvc.yaml, as `train`, and the stages that dvc.lock knows."""
    from pipeline.config.load import read_yaml
    from pipeline.standing.lock_file import stages_of

    yield from read_yaml(Path("dvc.yaml"))["stages"]
    yield from stages_of(Path("dvc.lock"))


def _sweep() -> Iterable[str]:
    sweep = _params()["sweep"]
    points = list(product(sweep["lengths"], sweep["initializations"], sweep["seeds"]))
    for size in (None, *sweep.get("train_sizes", ())):
        yield from (Variant(*point, train_size=size).name for point in points)
    for rate in sweep.get("learning_rates", ()):
        yield from (Variant(*point, learning_rate=rate).name for point in points)


def completing(*keys: str) -> Complete:
    """Completes with the names or values at a path of keys in params.yaml."""

    def names() -> Iterable[Any]:
        node: Any = _params()
        for key in keys:
            node = node[key]
        return list(node)

    return _of(names)


def _of(names: Callable[[], Iterable[Any]]) -> Complete:
    def complete(_: click.Context, __: click.Parameter, incomplete: str) -> list[Any]:
        found: dict[str, None] = {}
        # Whatever is wrong with the files, a shell is no place to say so.
        with suppress(Exception):
            for name in names():
                found[str(name)] = None
        return [name for name in found if name.startswith(incomplete)]

    return complete


def _examples() -> Iterable[str]:
    return sorted(path.as_posix() for path in Path("examples").glob("*.yaml"))


def complete_examples(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[Any]:
    """Completes with the files of `examples/`, else with any."""
    found = _of(_examples)(context, parameter, incomplete)
    return found or [CompletionItem(incomplete, type="file")]


def complete_prefixes(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[Any]:
    """Completes with names of variants, else with any file."""
    found = complete_variants(context, parameter, incomplete)
    return found or [CompletionItem(incomplete, type="file")]


complete_variants = _of(_variants)
"""Completes with names of variants."""

complete_stages = _of(_stages)
"""Completes with stages, and groups of them."""

complete_sweep = _of(_sweep)
"""Completes with names of the sweep's variants, trained or not."""
