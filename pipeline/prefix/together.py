"""Examples of several prefixes on one frozen model, packed in one row.

A prefix touches the frozen model in its attention alone. So linear layers see the examples of all
prefixes as one matrix, read each weight once for all of them, and each example attends to its own
prefix. The same idea serves many LoRA adapters of one model in one batch (Punica, Chen et al. 2023,
arXiv 2310.18547).
"""

from collections.abc import Collection, Sequence

import torch

from pipeline.prefix.architecture.devices import on_its_layers
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.injection.hiding import hidden_tokens
from pipeline.prefix.kv import KVPrefix
from pipeline.prefix.model import PrefixModel
from pipeline.prefix.packed.logits import logits_of_row
from pipeline.prefix.packed.packing import Packing


def packed_logits_together(
    models: Sequence[PrefixModel],
    input_ids: torch.Tensor,
    lengths: Sequence[list[int]],
    keep: torch.Tensor,
    prefixes: Sequence[KVPrefix | None] | None = None,
    without: Sequence[Collection[int]] | None = None,
) -> torch.Tensor:
    """Logits `[n, vocabulary]` of one row that holds the examples of several prefix models.

    They are those of `packed_logits` of each model for its own examples, and so are their
    gradients, to rounding. Prefixes may differ in length and in how they are parametrised. A
    model may stand there several times, for examples that see different virtual tokens of it.

    Args:
        models: of one frozen model, each of which packed rows serve (`why_not_packed`).
        input_ids: int64 `[tokens]`, examples one after another, the first model's first.
        lengths: of each model the tokens of each of its examples.
        keep: int64 `[n]`, indices into `input_ids` of the positions whose logits are wanted.
        prefixes: of each model what `encoder.given()` gave, for who draws their dropout apart;
            None to ask for it here.
        without: of each model the virtual tokens that its examples do not see, as within
            `model.without(tokens)`; where they are none, or this is None, it is what is hidden of
            the model in this thread.

    Raises:
        PrefixError: when the models are of different frozen models, or a model recomputes layers
            while another does not.
        NotPackableError: as `PackedModel.packed_logits` does.
    """
    first = models[0]
    if any(model.frozen_model is not first.frozen_model for model in models):
        raise PrefixError("the models stand on different frozen models; build them on one object")
    if len({(model.training, model.prefix_config is None) for model in models}) > 1:
        raise PrefixError(
            "some of the models are in training mode, or have a prefix, and some not; call "
            "train() or eval() on all of them, and give each a prefix"
        )
    with first.packing_rows():
        if prefixes is None:
            prefixes = [model.encoder.given() for model in models]
        groups = tuple(
            Packing(
                own,
                on_its_layers(prefix, first.frozen_model),
                hidden=_hidden(model, tokens),
                prefix_always_visible=model.prefix_always_visible,
            )
            for model, own, prefix, tokens in zip(
                models, lengths, prefixes, without or [()] * len(models), strict=True
            )
        )
        packing = Packing([length for own in lengths for length in own], None, groups=groups)
        return logits_of_row(first.frozen_model, input_ids, packing, keep)


def _hidden(model: PrefixModel, tokens: Collection[int]) -> torch.Tensor | None:
    """What some of a model's examples do not see, boolean `[layers, p]`."""
    if not tokens:
        return model.hidden
    return hidden_tokens(len(model.kv_shapes), model.prefix_length, tokens, None, None)
