"""The rates at which layers' keys and values train, where those are not all alike."""

from collections.abc import Iterable

import torch

from pipeline.config.train import TrainParams
from pipeline.training.blocks import Block


def block_rate(block: Block, params: TrainParams) -> float:
    """The peak rate of a block: `learning_rate`, times what `key_rate_factor` and
    `relative_rates` make of it.

    With `relative_rates` it is in proportion to the root mean square of the block's numbers as they
    are now, at the start of a training, as Adafactor has it for each matrix (Shazeer and Stern
    2018, arXiv 1804.04235, section 8). AdamW's steps do not depend on the size of gradients, so
    this is AdamW, at one rate, on what every number is of its block's size. Zeros have none, and
    move at the rate itself. Two digits, so that machines which differ in the last one train alike.
    """
    factor = params.key_rate_factor if block.kind == "keys" else 1.0
    if params.relative_rates and block.kind != "projection":
        numbers = block.within(block.parameter.detach())
        size = float(torch.linalg.vector_norm(numbers)) / numbers.numel() ** 0.5
        factor *= float(f"{size:.2g}") or 1.0
    return params.learning_rate * factor


def by_rate(
    blocks: Iterable[tuple[Block, torch.Tensor]], params: TrainParams
) -> dict[float, list[torch.Tensor]]:
    """Blocks' views by their rates, in the order of the first of each rate."""
    found: dict[float, list[torch.Tensor]] = {}
    for block, view in blocks:
        found.setdefault(block_rate(block, params), []).append(view)
    return found
