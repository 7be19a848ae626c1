"""The token ids that stand for a prefix in an engine's prompt.

An engine goes on from a state where a prompt begins with the state's tokens. The cells hold the
prefix and no words, so that which tokens these are is free, but no two prefixes may share them:
they are drawn from the SHA-256 of the prefix's file, of all ordinary tokens of the vocabulary.
"""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import pairwise

from transformers import PreTrainedTokenizerBase

from pipeline.errors import PipelineError


def placeholder_ids(sha256: str, length: int, ordinary: Sequence[int]) -> tuple[int, ...]:
    """`length` ids of `ordinary`, the same for the same file (its SHA-256, in hexadecimal)."""
    drawn = []
    for place in range(length):
        digest = hashlib.sha256(f"{sha256} {place}".encode()).digest()
        drawn.append(ordinary[int.from_bytes(digest[:8], "big") % len(ordinary)])
    return tuple(drawn)


def ordinary_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of the vocabulary's tokens that stand for text, ascending."""
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    return [token for token in range(len(tokenizer)) if token not in special]


def refuse_alike(placeholders: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Raise PipelineError where one prefix's ids are how another's begin, for they would be mixed.

    After the one is restored, a prompt for the other would take its cells for its own. The same
    file by two names is one prefix.

    Args:
        placeholders: the file's SHA-256 and the ids of each prefix, by name.
    """
    listed = sorted(placeholders.items(), key=lambda pair: pair[1][1])
    # Of sorted sequences one that begins like another stands behind it, and between them none
    # that does not.
    for (name, (sha256, ids)), (other, (others, longer)) in pairwise(listed):
        if longer[: len(ids)] == ids and sha256 != others:
            raise PipelineError(
                f"the placeholder ids of {other} begin with all of those of {name}, so that "
                "llama.cpp would take the one prefix for the other; serve them apart"
            )
