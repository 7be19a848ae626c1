"""Moving cached keys to other positions, so that tokens chosen from a text stand side by side.

A prefix of p virtual tokens stands at positions 0 to p-1, and the input after it starts at p. A
key taken from further down a text carries its old position. It is rotated on where the model
rotates, and stays as it is where its place is its position, or where its position cannot be taken
out of it (`pipeline.prefix.architecture.key_positions`).
"""

import torch
from transformers import PreTrainedModel

from pipeline.prefix.architecture.key_positions import key_positions
from pipeline.prefix.kv import KVPrefix


@torch.no_grad()
def moved_to_front(model: PreTrainedModel, kv: KVPrefix, positions: list[int]) -> KVPrefix:
    """A prefix whose tokens stood at `positions` `[p]`, ascending, moved to 0 to p-1.

    Raises PrefixError for a model that cannot be asked how it rotates.
    """
    turning = key_positions(model, positions[-1] + 1)
    return kv if turning is None else turning.moved(kv, positions, range(len(positions)))


@torch.no_grad()
def moved_back(model: PreTrainedModel, kv: KVPrefix, by: int) -> KVPrefix:
    """A prefix all of whose tokens stand `by` positions earlier, before the text's own start too.

    Between it and what comes after it every distance is then what it was to the text, where what
    comes after moves back as well. Raises PrefixError as `moved_to_front` does.
    """
    turning = key_positions(model, by + 1)
    return kv if turning is None else turning.moved(kv, [by] * len(kv), [0] * len(kv))
