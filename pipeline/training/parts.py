"""What one process computes of a batch."""

from collections.abc import Iterator, Sequence

from pipeline.data.batching import Example
from pipeline.distributed.ranks import Ranks
from pipeline.loss.causal import TargetLoss


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
