"""What one process computes of a batch, a call of the model at a time."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import torch

from pipeline.data.batching import Example
from pipeline.distributed.ranks import Ranks
from pipeline.loss.causal import TargetLoss
from pipeline.training.joint_loss import Share, losses_together
from pipeline.training.left_out import Group, LeftOut


def parts_of(
    batch: Sequence[Example], loss_of: TargetLoss, ranks: Ranks
) -> Iterator[tuple[list[Example], float]]:
    """This process's examples of a batch in parts that one call takes each, and what they count.

    All processes make the same number of calls, so that their random generators move alike and the
    weights of a sharded model come together in all at once: who has no part left computes an
    example that counts 0.
    """
    shares = ranks.shares(batch, [len(example["input_ids"]) for example in batch])
    parts = [loss_of.parts(share) for share in shares]
    own = parts[ranks.rank]
    yield from ((part, 1.0) for part in own)
    shortest = min(batch, key=lambda example: len(example["input_ids"]))
    for _ in range(len(own), max(map(len, parts))):
        yield [shortest], 0.0


def grouped_parts_of(
    batch: Sequence[Example], loss_of: TargetLoss, ranks: Ranks, left_out: LeftOut, step: int
) -> Iterator[tuple[list[Group], float]]:
    """The same in groups of examples that see the same of the prefix.

    One packed row holds several groups; what is padded is computed a group at a time.
    """
    begins_at = getattr(loss_of.model.encoder, "begins_at", 0)
    groups = left_out.groups(step, batch, begins_at)
    if len(groups) == 1 or all(is_packed(loss_of, group.examples) for group in groups):
        for part, counts in parts_of(batch, loss_of, ranks):
            yield left_out.groups(step, part, begins_at), counts
        return
    for group in groups:
        for part, counts in parts_of(group.examples, loss_of, ranks):
            yield [Group(group.hidden, part)], counts


def is_packed(loss_of: TargetLoss, examples: Sequence[Example]) -> bool:
    """Whether packed rows serve all of some examples."""
    lengths = {len(example["input_ids"]) for example in examples}
    return isinstance(loss_of, TargetLoss) and all(map(loss_of.packs, lengths))


def shares_of(loss_of: TargetLoss, groups: Sequence[Group], weight: float) -> list[Share]:
    """Groups as they stand in a packed row, each with a draw of `prefix_dropout` of its own."""
    given = loss_of.model.encoder.given
    return [Share(loss_of, group.examples, weight, given(), group.hidden) for group in groups]


def loss_of_groups(loss_of: TargetLoss, groups: Sequence[Group], weight: float) -> torch.Tensor:
    """The groups' summed loss (nats, float32 scalar), weighted.

    It has no gradient where no example sees anything of the prefix.
    """
    if len(groups) > 1:
        return torch.stack(losses_together(shares_of(loss_of, groups, weight))).sum()
    (group,) = groups
    model = loss_of.model
    with model.without(tokens=group.hidden) if group.hidden else nullcontext():
        return loss_of(group.examples, weight)
