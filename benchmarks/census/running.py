"""Rows in processes of their own, with a time limit: what hangs or dies is a row that says so."""

import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from transformers.utils import logging

from benchmarks.census.examination import Found, examined
from benchmarks.census.rows import Row
from benchmarks.census.verdicts import FAILED, Verdict


@dataclass(frozen=True)
class _Child:
    row: Row
    process: Any
    began: float


def run(rows: list[Row], jobs: int, limit: float, asks_peft: bool = True) -> Iterator[Found]:
    """Examine rows, `jobs` at once and each for `limit` seconds at the most, as they end.

    On Linux a process is a fork of this one, which has imported everything and computed nothing.
    """
    context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    waiting, children = list(reversed(rows)), dict[Connection, _Child]()
    try:
        while waiting or children:
            while waiting and len(children) < jobs:
                receiver, child = _started(context, waiting.pop(), asks_peft)
                children[receiver] = child
            next_end = min(child.began for child in children.values()) + limit
            ready = wait(list(children), max(0.0, next_end - time.monotonic()))
            now = time.monotonic()
            for receiver in list(children):
                if receiver in ready:
                    yield _received(receiver, children.pop(receiver))
                elif now - children[receiver].began >= limit:
                    yield _ended(children.pop(receiver), f"it took more than {limit:g} seconds")
    finally:
        for child in children.values():
            child.process.kill()


def _started(context: Any, row: Row, asks_peft: bool) -> tuple[Connection, _Child]:
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_examine, args=(row, asks_peft, sender), daemon=True)
    process.start()
    sender.close()
    return receiver, _Child(row, process, time.monotonic())


def _examine(row: Row, asks_peft: bool, sender: Connection) -> None:
    """In the child: send what was found, and print nothing."""
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    # A configuration that names a checkpoint or a kernel of the Hub must not wait for a network.
    constants.HF_HUB_OFFLINE = True
    # Matrices of 32 x 32 gain nothing from a second core, which another row may have.
    torch.set_num_threads(1)
    with Path(os.devnull).open("w") as silent:
        for stream in (1, 2):
            os.dup2(silent.fileno(), stream)
        sys.stdout = sys.stderr = silent
        sender.send(examined(row, asks_peft))
    sender.close()


def _received(receiver: Connection, child: _Child) -> Found:
    try:
        found: Found = receiver.recv()
    except EOFError:
        child.process.join()
        return _ended(child, f"its process died with exit code {child.process.exitcode}")
    child.process.join()
    return found


def _ended(child: _Child, why: str) -> Found:
    child.process.kill()
    child.process.join()
    seconds = round(time.monotonic() - child.began, 1)
    return Found(child.row.name, child.row.group, Verdict(FAILED, why), seconds=seconds)
