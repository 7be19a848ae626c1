"""How much is computed at once: the `memory` section."""

from pipeline.schema.section import Count, Section


class MemoryParams(Section):
    """What a batch without gradients, and a row of several variants, may take of the memory.

    A section of its own, which no stage of DVC's reads: what shares a batch changes no result but
    by its rounding, and another machine's memory is no reason to compute anything again.
    """

    max_tokens_per_batch: Count = 4096
    max_tokens_together: Count = 2048
