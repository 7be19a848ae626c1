"""Whether a batch has to be computed in one pass of the model.

A prefix can be had for rows behind unlike padding where one pass of the model could not bear it, by
a pass for each group of rows of one length (`pipeline.prefix.injection.row_groups`). Who asks what
one pass can do, to make batches for it, must not be answered by several.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_asked: ContextVar[bool] = ContextVar("in_one_pass", default=False)


@contextmanager
def in_one_pass() -> Iterator[None]:
    """Within it a batch that one pass cannot compute is refused, in this thread."""
    before = _asked.set(True)
    try:
        yield
    finally:
        _asked.reset(before)


def is_one_pass_asked() -> bool:
    """Whether this is within `in_one_pass`."""
    return _asked.get()
