"""Encoders whose layers share a module, rotate keys or slide; and those that are refused."""

from typing import Any

import pytest
import torch
import transformers
from torch.utils.checkpoint import checkpoint

from pipeline.prefix import PrefixConfig, PrefixError, PrefixModel
from pipeline.prefix.injection.replay import recompute_context
from tests.conftest import kv_of
from tests.prefix.encoders import BERT, build
from tests.prefix.test_encoders import SOURCE, P, close, gradients, inputs, randomly


@torch.no_grad()
def test_rows_of_several_lengths_where_keys_are_rotated() -> None:
    """Each token of a row is what it is alone, on whichever side the padding is."""
    for name in ("modernbert", "nomic_bert"):
        tuned = randomly(build(name, "Model"))
        alone = tuned(input_ids=SOURCE[:1]).last_hidden_state
        for at in (slice(0, 4), slice(3, 7)):
            ids, mask = torch.zeros(2, 7, dtype=torch.long), torch.zeros(2, 7, dtype=torch.long)
            ids[0, at], mask[0, at] = SOURCE[0], 1
            ids[1], mask[1] = torch.arange(80, 87), 1
            found = tuned(input_ids=ids, attention_mask=mask).last_hidden_state[:1, at]
            close(found, alone)


@torch.no_grad()
def test_layers_that_share_a_module_have_a_prefix_each() -> None:
    """Recomputed ones too, though they are run again from the last to the first."""
    model = build("albert", num_hidden_layers=4, num_hidden_groups=2, inner_group_num=1)
    tuned = randomly(model)
    assert len(tuned.kv_shapes) == 4
    assert len({id(place.module) for place in tuned._places or ()}) == 2
    whole = tuned(**inputs("albert")).logits
    for layer in range(4):
        kv = kv_of(tuned)
        kv.keys[layer].add_(1.0)
        other = PrefixModel(model, PrefixConfig(P)).eval()
        other.load_kv_prefix(kv)
        assert float((other(**inputs("albert")).logits - whole).abs().max()) > 1e-5
        assert torch.equal(tuned(**inputs("albert")).logits, whole)


@torch.no_grad()
def test_a_depth_that_grows_is_refused() -> None:
    """A layer without a prefix of its own would go without, silently."""
    model = build("albert", num_hidden_layers=3)
    tuned = randomly(model)
    model.base_model.encoder.config.num_hidden_layers = 4
    with pytest.raises(PrefixError, match="run more often in one pass than when its layers were"):
        tuned(**inputs("albert"))


def test_a_replayed_layer_finds_its_own_among_shared_ones() -> None:
    model = build("albert", num_hidden_layers=3)
    tuned = randomly(model)
    (expected,) = gradients(tuned, inputs("albert"))
    encoder = model.base_model.encoder
    layer = encoder.albert_layer_groups[0]
    plain = layer.forward

    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(plain, *args, **kwargs, use_reentrant=False, context_fn=recompute_context)

    layer.forward = checkpointed
    (found,) = gradients(tuned, inputs("albert"))
    close(found, expected, 1e-5)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: transformers.MobileBertModel(
                transformers.MobileBertConfig(
                    **{**BERT, "embedding_size": 32, "true_hidden_size": 32},
                    intra_bottleneck_size=32,
                )
            ),
            "the encoder of MobileBertModel computes something else after a prefix",
        ),
        (
            lambda: transformers.FNetModel(transformers.FNetConfig(vocab_size=120, hidden_size=32)),
            "FNetModel has no attention that a prefix can reach",
        ),
    ],
)
def test_what_a_prefix_is_not_exact_in_is_refused(make: Any, sentence: str) -> None:
    """MobileBERT joins each token's embedding to its neighbours', across the prefix's end."""
    torch.manual_seed(0)
    with pytest.raises(PrefixError, match=sentence):
        PrefixModel(make().eval(), PrefixConfig(P))
