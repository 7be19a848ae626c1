"""Joining the other processes of a training, as torchrun starts them."""

import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from pipeline.distributed.launching import RUN_ID
from pipeline.distributed.ranks import ALONE, ManyRanks, Ranks
from pipeline.errors import DivergedError, PipelineError, StoppedError
from pipeline.progress.watching import show_nothing

# Raised in every process alike, after each has seen the same numbers.
_ALIKE = (DivergedError, StoppedError)
_LAST_WORDS = timedelta(minutes=5)


@contextmanager
def joined() -> Iterator[Ranks]:
    """Take part in the training that torchrun started this process for.

    Collectives of CUDA tensors go through NCCL, all others through gloo, and the current CUDA
    device is that of `LOCAL_RANK`. The first process shows what there is to show; an error is told
    by one. Outside of torchrun, or for one process, there is nothing to join.

    Raises:
        PipelineError: when another process ended without a word.
    """
    size = int(os.environ["WORLD_SIZE"])
    if size == 1:
        yield ALONE
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    cuda = torch.cuda.is_available()
    if cuda and local < torch.cuda.device_count():
        torch.cuda.set_device(local)
    store, rank, size = next(dist.rendezvous("env://"))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo", store=store, rank=rank, world_size=size
    )
    ranks = ManyRanks(rank, size, dist.PrefixStore("pipeline", store))
    try:
        if ranks.is_first:
            yield ranks
        else:
            with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), _silent():
                yield ranks
    except (Exception, KeyboardInterrupt) as error:
        _tell_once(ranks, error)
        raise
    dist.destroy_process_group()


@contextmanager
def _silent() -> Iterator[None]:
    with warnings.catch_warnings(), show_nothing():
        warnings.simplefilter("ignore")
        yield


def _tell_once(ranks: ManyRanks, error: BaseException) -> None:
    """Return where this process is to tell the error; end it elsewhere.

    The launcher stops all processes when the first has ended, this one too.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert ranks.store is not None, "several processes have a store"
    code = getattr(error, "exit_code", 1)
    if isinstance(error, _ALIKE):
        if not ranks.is_first:
            with suppress(Exception):
                ranks.store.wait(["ended"], _LAST_WORDS)
            sys.exit(code)
        with suppress(Exception):
            ranks.store.set("ended", "")
        return
    told = 1
    with suppress(Exception):
        # Gone with the launcher: then each tells.
        told = ranks.store.add("told", 1)
    if told > 1:
        sys.exit(code)
    if _is_of_another(error):
        if os.environ.get("TORCHELASTIC_RUN_ID", "").startswith(RUN_ID):
            # Started by `launching`, which knows how that process ended.
            sys.exit(code)
        raise PipelineError(
            "another process of this training ended without a word (killed, or its machine gone); "
            "the same command goes on from the last checkpoint"
        ) from error


def _is_of_another(error: BaseException) -> bool:
    """Whether it is what is left of a connection to a process that is gone."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error)
    )
