"""The token ids that stand for a prefix in a prompt: vLLM never embeds them.

vLLM's own prefix cache knows what it holds by token ids alone. The ids are drawn from the digest of
the prefix's file, so that another prefix has others.
"""

import hashlib
from collections.abc import Mapping, Sequence

from pipeline.errors import PipelineError

_TRIES = 1000
_BYTES = 8


def placeholder_ids(
    digest: str, length: int, alphabet: Sequence[int], attempt: int = 0
) -> tuple[int, ...]:
    """`length` token ids of `alphabet`, drawn from a file's SHA-256 (hexadecimal).

    Drawn by SHAKE-256, so that a longer prefix's ids begin with a shorter's of the same file;
    `attempt` gives other ones.
    """
    stream = hashlib.shake_256(f"{digest}/{attempt}".encode()).digest(_BYTES * length)
    words = (stream[at : at + _BYTES] for at in range(0, len(stream), _BYTES))
    return tuple(alphabet[int.from_bytes(word, "big") % len(alphabet)] for word in words)


def told_apart(
    prefixes: Mapping[str, tuple[str, int]],
    alphabet: Sequence[int],
) -> dict[str, tuple[int, ...]]:
    """The ids of each prefix, none of which begin with another's.

    `prefixes` are a digest and a length in virtual tokens by name; the result does not depend on
    their order. Raises PipelineError where the alphabet is too small.
    """
    found: dict[str, tuple[int, ...]] = {}
    # A short one rules out more than a long one does.
    for name in sorted(prefixes, key=lambda name: (prefixes[name][1], prefixes[name][0], name)):
        digest, length = prefixes[name]
        for attempt in range(_TRIES):
            ids = placeholder_ids(digest, length, alphabet, attempt)
            if not any(ids[: len(other)] == other for other in found.values()):
                found[name] = ids
                break
        else:
            raise PipelineError(
                f"'{name}' has {length} virtual tokens, and the tokenizer has too few tokens of "
                f"its own ({len(alphabet)}) to tell it from {len(found)} others; serve fewer "
                "prefixes at once, or longer ones"
            )
    return {name: found[name] for name in prefixes}
