"""The trials of study files: what is trained, with which params, and which come first."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from ruamel.yaml import YAML

from benchmarks.quality.study import Keys, Study, first_mistake, read_study
from pipeline.baselines.trained import Beginning, TrainedBaseline
from pipeline.config import Params
from pipeline.config.compose import composed
from pipeline.config.train import TrainParams
from pipeline.errors import PipelineError

_BASE = Path(__file__).with_name("base.yaml")

PREFIX = "prefix"
"""The method that is no key of `trained_baselines`."""

_OF_A_PREFIX = ("length", "start", "trained")
_OWN = ("method", *_OF_A_PREFIX, "seed", "train_size", "alone")
"""The keys of a trial that are no keys of params.yaml."""


@dataclass(frozen=True)
class Trial:
    """One training and its measurement.

    `changes` are the keys of params.yaml in which it differs from the base, with dots between
    them; `length`, `start` and `trained` are None of a method that is no prefix.
    """

    method: str
    seed: int
    changes: Keys
    params: Params
    length: int | None = None
    start: str | None = None
    trained: Literal["keys", "values"] | None = None
    train_size: int | None = None
    alone: bool = False

    @cached_property
    def identity(self) -> Keys:
        """What tells it from other trials of one base, as JSON holds it."""
        own = {name: getattr(self, name) for name in _OWN}
        return {
            **{k: v for k, v in own.items() if v is not None and v is not False},
            **self.changes,
        }

    @property
    def baseline(self) -> TrainedBaseline | None:
        """The definition of a method that is no prefix."""
        return None if self.method == PREFIX else self.params.trained_baselines[self.method]

    @property
    def begins_from(self) -> Beginning | None:
        """Where its prefix starts, if it has one."""
        if self.baseline is not None:
            return self.baseline.begins_from
        assert self.start is not None
        assert self.length is not None
        return Beginning(self.start, self.length)

    @property
    def training(self) -> TrainParams:
        """The section `train` that it is trained by."""
        baseline = self.baseline
        train = self.params.train
        return train if baseline is None else baseline.training(train.of_weights())

    def value(self, key: str) -> Any:
        """A key of its own, or of its params; of `train` what its method is trained by."""
        if key in _OWN:
            return getattr(self, key)
        section, _, rest = key.partition(".")
        if section == "trained_baselines" and rest.partition(".")[0] != self.method:
            return None
        if section == "prefix" and self.method != PREFIX:
            return None
        found = self.training if section == "train" else getattr(self.params, section)
        for name in filter(None, rest.split(".")):
            if found is None:
                return None
            found = found.get(name) if isinstance(found, Mapping) else getattr(found, name)
        return found


class Base:
    """The params that trials differ from: params.yaml, base.yaml over it, and a caller's own.

    Args:
        own: keys with dots between them, which stand in place of base.yaml's.

    Raises PipelineError for what is no YAML.
    """

    def __init__(self, own: Mapping[str, Any] | None = None) -> None:
        text = composed(Path("params.yaml"), _BASE)
        self._raw = _with(YAML(typ="safe").load(text), own or {})

    def trial(self, where: str, alone: bool, seed: int, keys: Mapping[str, Any]) -> Trial:
        """The trial that keys ask for. Raises PipelineError, which begins with `where`."""
        own = {name: keys[name] for name in _OWN if name in keys}
        changes = {k: v for k, v in keys.items() if k not in _OWN and v != _at(self._raw, k)}
        method = own.setdefault("method", PREFIX)
        sweep: Keys = {"sweep.seeds": [seed]}
        if method == PREFIX:
            length = own.setdefault("length", self._raw["sweep"]["lengths"][0])
            start = own.setdefault("start", self._raw["sweep"]["initializations"][0])
            sweep |= {"sweep.lengths": [length], "sweep.initializations": [start]}
            # What is prefilled is as long as the longest of all trials.
            sweep["kv_prefix.max_length"] = max(length, self._raw["kv_prefix"]["max_length"])
            if own.get("trained") not in (None, "keys", "values"):
                raise PipelineError(f"{where}: trained: {own['trained']} is no keys or values")
        elif given := [name for name in _OF_A_PREFIX if name in own]:
            raise PipelineError(f"{where}: {given[0]} is of a prefix, and the method is {method}")
        if (size := own.get("train_size")) is not None:
            sweep["sweep.train_sizes"] = [size]
        raw = _with(self._raw, {**changes, **sweep})
        if method != PREFIX and method not in raw["trained_baselines"]:
            known = ", ".join((PREFIX, *raw["trained_baselines"]))
            raise PipelineError(f"{where}: method '{method}' is unknown; known: {known}")
        try:
            params = Params.model_validate(raw)
        except ValidationError as error:
            raise PipelineError(f"{where}: {first_mistake(error)}") from error
        return Trial(seed=seed, changes=changes, params=params, alone=alone, **own)


def trials_of(path: Path, study: Study, base: Base) -> Iterator[tuple[int, Trial]]:
    """A study's trials with their places in the order.

    Raises PipelineError for params that are refused.
    """
    for group in study.groups:
        for values in itertools.product(*group.vary.values()):
            keys = {**study.set, **group.set, **dict(zip(group.vary, values, strict=True))}
            for seed, place in group.seeds.items():
                yield place, base.trial(str(path), group.alone, seed, keys)


def in_order(paths: Sequence[Path], base: Base) -> list[Trial]:
    """All trials of study files, those of the lowest place first, each of them once."""
    placed = [pair for path in paths for pair in trials_of(path, read_study(path), base)]
    placed.sort(key=lambda pair: (not pair[1].alone, pair[0]))
    found: list[Trial] = []
    for _, trial in placed:
        if all(trial.identity != other.identity for other in found):
            found.append(trial)
    return found


def _at(raw: Mapping[str, Any], key: str) -> Any:
    found: Any = raw
    for name in key.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _with(raw: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The same with other values at keys with dots between them."""
    changed = deepcopy(dict(raw))
    for key, value in changes.items():
        *sections, last = key.split(".")
        section = changed
        for name in sections:
            section = section.setdefault(name, {})
        section[last] = value
    return changed
