"""The processes of one training, which the field calls ranks, and what they tell each other."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

Item = TypeVar("Item")

# Another training of the same variant may hold what the first waits for.
_LONG = timedelta(days=30)


@dataclass(frozen=True)
class Ranks:
    """A training in this process alone: nothing is shared out, added up or waited for."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that shows, logs and writes."""
        return self.rank == 0

    def shares(self, items: Sequence[Item], sizes: Sequence[int]) -> list[list[Item]]:
        """What each process takes of some items, in their order; the same in every process.

        The largest go first, each to the process with the least so far (longest processing time
        first, Graham 1969). A process may get nothing.
        """
        loads = [0] * self.size
        taken: list[list[int]] = [[] for _ in loads]
        for index in sorted(range(len(items)), key=lambda i: (-sizes[i], i)):
            least = loads.index(min(loads))
            loads[least] += sizes[index]
            taken[least].append(index)
        return [[items[index] for index in sorted(indices)] for indices in taken]

    def sum(self, number: float) -> float:
        """The sum of a number over all processes, the same bits in each."""
        return number

    def largest(self, number: int) -> int:
        """The largest of a number over all processes."""
        return number

    def add_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace each gradient by its sum over all processes, the same bits in each."""

    def from_first(self, value: Any) -> Any:
        """What the first process has; the others' own is not looked at."""
        return value

    def copy_from_first(self, tensors: Iterable[torch.Tensor]) -> None:
        """Write the first process's numbers over those of the others, in place."""

    def wait_for_first(self, what: str) -> None:
        """In the first process tell the others that it has come to `what`; in them, wait for it."""


ALONE = Ranks()


@dataclass(frozen=True)
class ManyRanks(Ranks):
    """One of several processes with a torch process group, which is torch's default one.

    Every method but `shares` is to be called in all of them, in the same order. `store` is what
    they keep names and short texts in.
    """

    store: dist.Store | None = None

    def sum(self, number: float) -> float:
        tensor = torch.tensor(number, dtype=torch.float64)
        dist.all_reduce(tensor)
        return float(tensor)

    def largest(self, number: int) -> int:
        tensor = torch.tensor(number)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return int(tensor)

    @torch.no_grad()
    def add_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        parameters = list(parameters)
        # A mixture's expert may have met tokens in one process and none in another.
        has = torch.tensor([parameter.grad is not None for parameter in parameters]).int()
        dist.all_reduce(has, dist.ReduceOp.MAX)
        works = []
        for parameter in (parameters[i] for i in has.nonzero().flatten().tolist()):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            works.append(dist.all_reduce(parameter.grad, async_op=True))
        for work in works:
            work.wait()

    def from_first(self, value: Any) -> Any:
        values = [value if self.is_first else None]
        dist.broadcast_object_list(values, device=torch.device("cpu"))
        return values[0]

    @torch.no_grad()
    def copy_from_first(self, tensors: Iterable[torch.Tensor]) -> None:
        for tensor in tensors:
            dist.broadcast(tensor, 0)

    def wait_for_first(self, what: str) -> None:
        assert self.store is not None, "several processes have a store"
        if self.is_first:
            self.store.set(what, "")
        else:
            self.store.wait([what], _LONG)
