"""What a prefix does for examples before any training, by which one of several is chosen."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from pipeline.prefix.architecture.fitting import config_holding
from pipeline.prefix.architecture.parts import takes
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.kv import KVPrefix
from pipeline.prefix.model import PrefixModel
from pipeline.prefix.parameters.config import PrefixConfig


@torch.no_grad()
def untrained_loss(
    frozen_model: PreTrainedModel,
    kv: KVPrefix,
    examples: Sequence[tuple[Sequence[int], int]],
    config: PrefixConfig | None = None,
) -> float:
    """The cross-entropy of a decoder's targets after a prefix, in nats per target token.

    Args:
        frozen_model: a decoder; it is left as it is.
        kv: the prefix.
        examples: of each the token ids as they follow the prefix, and where its target begins.
        config: of what a training from it would begin with: the prefix is measured in the `layers`
            and of the `kinds` that it names alone, and as visible. None for all of it, where a text
            would stand.

    Raises:
        PrefixError: for no example, and for a model without a place for the prefix.
    """
    if not examples:
        raise PrefixError("no example whose target could be predicted; give at least one")
    measured = config_holding(frozen_model, kv) if config is None else config.untrained(len(kv))
    model = PrefixModel(frozen_model, measured).eval()
    model.load_kv_prefix(kv)
    try:
        losses = [_loss(model, ids, start) for ids, start in examples]
    finally:
        model.detach()
    return sum(losses) / sum(len(ids) - start for ids, start in examples)


def _loss(model: PrefixModel, ids: Sequence[int], start: int) -> float:
    """The summed cross-entropy of one example's target."""
    # The logits that predict a token are at the position before it.
    count = len(ids) - start + 1
    extra = {"logits_to_keep": count} if takes(model.frozen_model, "logits_to_keep") else {}
    row = torch.tensor([list(ids)], device=model.device)
    logits = model(input_ids=row, use_cache=False, **extra).logits[0, -count:-1].float()
    return float(F.cross_entropy(logits, row[0, start:].to(logits.device), reduction="sum"))
