"""Rows of any prefixes that are decoded together, and join and leave between two tokens.

Continuous batching (Orca, Yu et al. 2022, OSDI) of rows that follow different prefixes: linear
layers see the new tokens of all rows as one matrix and read each weight once, and each row attends
to its own prefix and its own cache. A prefix is laid out once, when its first row is decoded.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from pipeline.prefix.architecture.devices import input_device, on_its_layers
from pipeline.prefix.kv import KVPrefix
from pipeline.prefix.packed.cache import PackedCache
from pipeline.prefix.packed.kernel.few_tokens.layers import kernel_layers
from pipeline.prefix.packed.logits import (
    logits_of_row,
    next_logits_of_row,
    packed_attention_on,
)
from pipeline.prefix.packed.packing import Packing


@dataclass(frozen=True, eq=False)
class Stem:
    """What rows follow: a prefix, or with None nothing.

    `prefix_always_visible`: whether windows and chunks show the prefix from any distance.
    """

    prefix: KVPrefix | None
    prefix_always_visible: bool = False


@dataclass(frozen=True, eq=False)
class Beginning:
    """A row that is to join: its tokens after the stem, and how many it can grow by."""

    stem: Stem
    input_ids: Sequence[int]
    room: int


@dataclass(frozen=True, eq=False)
class Row:
    """A row that has joined, by its number in the cache of its stem."""

    stem: Stem
    number: int


class RunningRows:
    """The rows of one frozen model, of which packed rows serve each with its prefix and length.

    Rows are greedy or sampled as the caller likes: `join` and `step` give logits, and take tokens.
    Not for several threads at once. Whoever calls it is in torch's inference mode throughout, and
    the model in evaluation mode.

    Args:
        frozen_model: one that packed rows serve (`PrefixModel.why_not_packed`, of decoding).
    """

    def __init__(self, frozen_model: PreTrainedModel) -> None:
        self._model = frozen_model
        self._device = input_device(frozen_model)
        self._placed: dict[Stem, KVPrefix | None] = {}
        self._caches: dict[Stem, PackedCache] = {}
        self._rows: dict[Stem, list[Row]] = {}

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Within it tokens follow faster, and all that other threads ask of the model waits."""
        with packed_attention_on(self._model), kernel_layers(self._model):
            yield

    @property
    def rows(self) -> list[Row]:
        """Those that are decoded, in the order of `step`."""
        return [row for rows in self._rows.values() for row in rows]

    def join(self, beginnings: Sequence[Beginning]) -> tuple[list[Row], torch.Tensor]:
        """Read inputs; returns their rows, and logits `[rows, vocabulary]` after each.

        All of them are read in one pass. Raises NotPackableError as `packed_logits` does; no row
        has joined then.
        """
        stems = dict.fromkeys(beginning.stem for beginning in beginnings)
        of = {stem: [i for i, b in enumerate(beginnings) if b.stem is stem] for stem in stems}
        order = [i for members in of.values() for i in members]
        ids = [token for i in order for token in beginnings[i].input_ids]
        lengths = [len(beginnings[i].input_ids) for i in order]
        last = torch.tensor(lengths, device=self._device).cumsum(0) - 1
        parts = tuple(self._read(stem, [beginnings[i] for i in of[stem]]) for stem in stems)
        packing = Packing(lengths, None, groups=parts)
        input_ids = torch.tensor(ids, device=self._device)
        logits = logits_of_row(self._model, input_ids, packing, last)
        joined: dict[int, Row] = {}
        for stem, part in zip(stems, parts, strict=True):
            assert part.cache is not None, "as `_read` makes them"
            numbers = self._keep(stem, part.cache)
            rows = [Row(stem, number) for number in numbers]
            self._rows.setdefault(stem, []).extend(rows)
            joined.update(zip(of[stem], rows, strict=True))
        places = {i: place for place, i in enumerate(order)}
        given = range(len(beginnings))
        return [joined[i] for i in given], logits[[places[i] for i in given]]

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Logits `[rows, vocabulary]` after one more token of each of `rows`."""
        parts = tuple(
            Packing(
                [1] * len(rows),
                self._placed[stem],
                self._caches[stem],
                decoding=True,
                prefix_always_visible=stem.prefix_always_visible,
            )
            for stem, rows in self._rows.items()
        )
        packing = parts[0] if len(parts) == 1 else Packing([1] * len(tokens), None, groups=parts)
        input_ids = torch.tensor(tokens, device=self._device)
        logits = next_logits_of_row(self._model, input_ids, packing)
        for stem in self._rows:
            self._caches[stem].advance()
        return logits

    def leave(self, rows: Iterable[Row]) -> None:
        """Let rows go, and what is kept of them."""
        leaving = set(rows)
        for stem in {row.stem for row in leaving}:
            gone = [row for row in self._rows[stem] if row in leaving]
            self._rows[stem] = [row for row in self._rows[stem] if row not in leaving]
            self._caches[stem].leave([row.number for row in gone])
            if not self._rows[stem]:
                del self._rows[stem]

    def _read(self, stem: Stem, beginnings: Sequence[Beginning]) -> Packing:
        if stem not in self._placed:
            self._placed[stem] = on_its_layers(stem.prefix, self._model)
        lengths = [len(beginning.input_ids) for beginning in beginnings]
        return Packing(
            lengths,
            self._placed[stem],
            PackedCache(lengths, [beginning.room for beginning in beginnings]),
            prefix_always_visible=stem.prefix_always_visible,
        )

    def _keep(self, stem: Stem, read: PackedCache) -> list[int]:
        if stem in self._caches:
            return self._caches[stem].join(read)
        self._caches[stem] = read
        return list(read.rows)
