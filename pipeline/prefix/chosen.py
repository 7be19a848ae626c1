"""Which tokens a prefix was chosen to start from, as its metadata have them.

The entry `CHOSEN` is JSON: a list of the ids of the tokens whose cache it started as. A model that
was started from such a prefix writes it into what it trains, so that nothing chooses anew to tell.
"""

import json
from collections.abc import Mapping, Sequence

from pipeline.prefix.errors import PrefixError

CHOSEN = "chosen_tokens"
"""The metadata entry that says which tokens a prefix was chosen to start from."""


def note(tokens: Sequence[int]) -> dict[str, str]:
    """What a prefix's metadata say of the tokens that it was chosen to start from."""
    return {CHOSEN: json.dumps(list(tokens))}


def tokens_in(metadata: Mapping[str, str]) -> list[int] | None:
    """The ids that metadata name; None where they speak of none.

    Raises PrefixError for an entry of another form.
    """
    if CHOSEN not in metadata:
        return None
    try:
        return [int(token) for token in json.loads(metadata[CHOSEN])]
    except (TypeError, ValueError) as error:
        raise PrefixError(
            f"the prefix's metadata entry {CHOSEN} is no list of tokens; train the prefix anew"
        ) from error
