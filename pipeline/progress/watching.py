"""Who watches: a person at a terminal, a log, or a service that builds and tests."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

_shown_elsewhere = False
# torchao's own import, and torch's remark about what that import registers.
_TALKATIVE = ("torchao", "torch.utils._pytree")


class Watching(Enum):
    """What standard error is; every bar goes by it."""

    TERMINAL = "terminal"
    """A person, who sees lines drawn over."""

    LOG = "log"
    """A file or a pipe, where each line stays."""

    CI = "ci"
    """The log of a continuous integration, which only has to say what went wrong."""

    NOBODY = "nobody"
    """Another process shows the same work."""


def watching() -> Watching:
    """By the variable `CI`, which such services set, some of them beside a terminal; then by
    standard error. Within `show_nothing` nobody does.
    """
    if _shown_elsewhere:
        return Watching.NOBODY
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        return Watching.CI
    return Watching.TERMINAL if sys.stderr.isatty() else Watching.LOG


@contextmanager
def show_nothing() -> Iterator[None]:
    """Within it no bar shows anything: it is shown elsewhere."""
    global _shown_elsewhere
    before, _shown_elsewhere = _shown_elsewhere, True
    try:
        yield
    finally:
        _shown_elsewhere = before


def quiet_libraries() -> None:
    """Without a terminal no library draws bars: a log would keep each of their hundreds of states.

    Set before the libraries are imported, and never over what the user has set. Nor does torchao,
    which transformers imports wherever it is installed, tell every command which of its kernels are
    for other machines.
    """
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    if watching() is not Watching.TERMINAL:
        for name in ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS"):
            os.environ.setdefault(name, "1")
        os.environ.setdefault("PIP_PROGRESS_BAR", "off")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
