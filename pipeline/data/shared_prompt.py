"""What stands before every input, read once as a KV cache, and how inputs go on after it.

Each input's own tokens are those of the whole prompt after the shared ones, so that a prompt has
the tokens that it would have if it were written and read as one.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from datasets import Dataset

from pipeline.data.conversation import Turns
from pipeline.data.rewritten import rewritten
from pipeline.errors import PipelineError

# Two inputs that share no first token.
PROBES = ("0", "A")


class SharedPrompt(ABC):
    """Prompts that begin alike."""

    @abstractmethod
    def prompt_ids(self, asked: Turns, text: str) -> list[int]:
        """The tokens of a whole prompt: what a user asks in turns, and the same as one text."""

    @cached_property
    def shared(self) -> list[int]:
        """The tokens before any input, what begins the text (BOS) included."""
        first, second = (self.prompt_ids([user(probe)], probe) for probe in PROBES)
        return first[: alike(first, second)]

    def shared_by(self, splits: Iterable[Dataset]) -> list[int]:
        """The tokens before every input of these splits.

        They are fewer than `shared` where an input's first characters join the last of them in
        one token.
        """
        shared = self.shared
        for split in splits:
            for row in split:
                whole = self.whole(row)
                # At least one token is the input's own.
                shared = shared[: min(alike(shared, whole), len(whole) - 1)]
        return shared

    def follow(self, split: Dataset, shared: Sequence[int]) -> Dataset:
        """A split's examples as they go on after the shared tokens; one in memory.

        Raises PipelineError for an input that does not share them.
        """

        def followed(row: Mapping[str, Any]) -> dict[str, Any]:
            whole = self.whole(row)
            if whole[: len(shared)] != list(shared):
                raise PipelineError(
                    f"baselines: the prompt of example {row['id']} does not begin as all others"
                )
            own = whole[len(shared) :]
            return {"input_ids": own + self.target(row), "target_start": len(own)}

        return rewritten(split, followed)

    def whole(self, row: Mapping[str, Any]) -> list[int]:
        """The tokens before a tokenized row's target."""
        return self.prompt_ids(turns_of(row), str(row["input"]))

    def target(self, row: Mapping[str, Any]) -> list[int]:
        """A tokenized row's target."""
        return list(row["input_ids"][row["target_start"] :])


def turns_of(row: Mapping[str, Any]) -> Turns:
    """A tokenized row's turns up to its target."""
    if row.get("turns") is None:
        return [user(str(row["input"]))]
    return [dict(turn) for turn in json.loads(row["turns"])]


def user(text: str) -> dict[str, Any]:
    """A user's turn."""
    return {"role": "user", "content": text}


def alike(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    pairs = zip(first, second, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
