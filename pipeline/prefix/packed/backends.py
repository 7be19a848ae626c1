"""The ways to compute shared-prefix (cascade) attention: a row each, the one to prefer first.

Here alone one is chosen: by name (`use_backend`), or by `auto` the first that takes the states and
has been tried, forward and backward, with the numbers of torch's operators.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache

from pipeline.prefix.errors import PrefixError
from pipeline.prefix.packed.call import PackedAttentionCall, StateKind, Tensor
from pipeline.prefix.packed.efficient import EFFICIENT, attention_by_efficient, why_not_efficient
from pipeline.prefix.packed.flex import attention_by_flex, why_not_flex
from pipeline.prefix.packed.kernel.attention import attention_by_kernel
from pipeline.prefix.packed.kernel.decoding import KernelCache
from pipeline.prefix.packed.kernel.library import why_not_kernel
from pipeline.prefix.packed.layer_cache import LayerCache, PartsCache
from pipeline.prefix.packed.operators import OPERATORS, attention_by_operators
from pipeline.prefix.packed.trial import said, why_not_tried
from pipeline.prefix.packed.varlen import FLASH, attention_by_varlen, why_not_varlen

AUTO = "auto"


@dataclass(frozen=True)
class Backend:
    """One way; in each the prefix is attended to once for all examples and never copied.

    Attributes:
        why_not: why it does not take such queries, keys and values; None where it does.
        attention: `[num_heads, tokens, head_dim]` of a call, in the query's dtype.
        cache: of the keys and values of a layer, to decode rows from.
    """

    why_not: Callable[[StateKind], str | None]
    attention: Callable[[PackedAttentionCall], Tensor]
    cache: Callable[[Tensor, Tensor, list[int], list[int], list[int]], LayerCache]


BACKENDS = {
    "kernel": Backend(why_not_kernel, attention_by_kernel, KernelCache),
    "varlen": Backend(why_not_varlen, attention_by_varlen, PartsCache.by(FLASH)),
    "efficient": Backend(why_not_efficient, attention_by_efficient, PartsCache.by(EFFICIENT)),
    "flex": Backend(why_not_flex, attention_by_flex, PartsCache.by(OPERATORS)),
    "operators": Backend(lambda _: None, attention_by_operators, PartsCache.by(OPERATORS)),
}

_named = AUTO
# Of a thread that asks about an architecture and not about a machine.
_any: ContextVar[bool] = ContextVar("any", default=False)
_told: set[tuple[str, StateKind]] = set()
# What failed after it had been tried, and why.
_failed: dict[tuple[str, StateKind], str] = {}


def use_backend(name: str) -> None:
    """Have this process compute packed attention by one backend; `auto` is the default.

    Raises PrefixError when there is none of that name. Whether it serves shows at first use, which
    raises PrefixError where it does not.
    """
    global _named
    if name not in (AUTO, *BACKENDS):
        raise PrefixError(f"attention: '{name}' is unknown; use {', '.join((AUTO, *BACKENDS))}")
    _named = name


@contextmanager
def any_backend() -> Iterator[None]:
    """Within it, this thread's choice is `auto`, whatever is named."""
    token = _any.set(True)
    try:
        yield
    finally:
        _any.reset(token)


def backend_for(kind: StateKind) -> Backend:
    """The backend that is named, or the first that serves; torch's operators serve every kind.

    Raises PrefixError when one is named that does not serve.
    """
    if _named != AUTO and not _any.get():
        if (reason := why_not(_named, kind)) is not None:
            raise PrefixError(f"attention: '{_named}' does not serve here: {reason}; use auto")
        return BACKENDS[_named]
    return next(
        backend
        for name, backend in BACKENDS.items()
        if backend.why_not(kind) is None and _serves(name, kind)
    )


def why_not(name: str, kind: StateKind) -> str | None:
    """Why a backend does not serve such states on this machine; None where it does."""
    return BACKENDS[name].why_not(kind) or _failed.get((name, kind)) or _why_not_tried(name, kind)


def shared_prefix_attention(call: PackedAttentionCall) -> Tensor:
    """The output of a call, `[num_heads, tokens, head_dim]`, by the backend for its states."""
    backend = backend_for(call.kind)
    try:
        return backend.attention(call)
    except RuntimeError as error:
        # It compiled at the sizes of the trial, and does not at these.
        if not _is_of_a_compiler(error):
            raise
        name = next(name for name, one in BACKENDS.items() if one is backend)
        _failed[name, call.kind] = said(error)
        return shared_prefix_attention(call)


def _serves(name: str, kind: StateKind) -> bool:
    reason = why_not(name, kind)
    if reason is not None and (name, kind) not in _told:
        _told.add((name, kind))
        warnings.warn(
            f"attention: '{name}' fails on this machine and another way computes instead; {reason}",
            stacklevel=2,
        )
    return reason is None


@cache
def _why_not_tried(name: str, kind: StateKind) -> str | None:
    # What the others are compared with.
    return None if name == "operators" else why_not_tried(BACKENDS[name].attention, kind)


def _is_of_a_compiler(error: RuntimeError) -> bool:
    # Imported when something has failed: it takes a second.
    from torch._dynamo.exc import TorchDynamoException

    return isinstance(error, TorchDynamoException)
