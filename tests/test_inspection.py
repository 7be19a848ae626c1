"""Looking into a prefix: its way from the start, its nearest words, and what it is worth."""

from dataclasses import replace
from typing import Any
from unittest import mock

import pandas as pd
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pipeline.errors import PipelineError
from pipeline.inspection.ablation import ablation
from pipeline.inspection.blocks import blocks
from pipeline.inspection.inputs import loss_on
from pipeline.inspection.kept_states import KeptStates
from pipeline.inspection.looking import Prefix, look_into
from pipeline.inspection.movement import movement, movement_of_tokens
from pipeline.inspection.shown import shown
from pipeline.inspection.summary import by_layer, by_token, losses
from pipeline.inspection.words import nearest_words, words_of
from pipeline.prefix import KVPrefix, PrefixConfig, PrefixModel, kv_prefix_from_tokens
from tests.conftest import kv_of
from tests.hybrids import qwen3_next
from tests.prefix import encoders
from tests.prefix.architectures import build

IDS = [40, 9, 77, 200, 9, 133]


@pytest.mark.parametrize(
    "name",
    ["llama", "gpt2", "opt", "bloom", "mpt", "gemma3_text", "qwen3", "deepseek_v3", "gpt_neox"],
)
def test_a_text_gives_back_its_own_words(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model = build(name)
    kv = kv_prefix_from_tokens(model, IDS)
    before = model(input_ids=torch.tensor([IDS], device=model.device)).logits
    found = nearest_words(model, tokenizer, kv, 3)
    assert torch.equal(model(input_ids=torch.tensor([IDS], device=model.device)).logits, before)
    first = found[found["rank"] == 1]
    assert list(first["token"]) == list(range(len(IDS)))
    assert list(first["id"]) == IDS
    assert list(first["word"]) == words_of(tokenizer, IDS)
    for column in ("cosine", "key_cosine", "value_cosine"):
        assert first[column].min() > 1 - 1e-5
    others = found[found["rank"] > 1]
    assert others["cosine"].max() < 1 - 1e-3
    assert (found["typical"] < 0.9).all()


@pytest.mark.parametrize("name", ["t5", "bart", "bert", "roberta", "modernbert"])
def test_so_does_what_an_encoder_reads(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model = encoders.build(name)
    ids = [token % 90 + 5 for token in IDS]
    kv = kv_prefix_from_tokens(model, ids)
    found = nearest_words(model, tokenizer, kv, 1)
    assert list(found["id"]) == ids
    assert found["cosine"].min() > 1 - 1e-5


def test_one_virtual_token(tokenizer: PreTrainedTokenizerFast) -> None:
    model = build("gpt2")
    assert list(nearest_words(model, tokenizer, kv_prefix_from_tokens(model, [77]), 1)["id"]) == [
        77
    ]


def test_no_first_layer_no_words(tokenizer: PreTrainedTokenizerFast) -> None:
    model = PrefixModel(build("llama"), PrefixConfig(num_virtual_tokens=3, layers=(1,)))
    with pytest.raises(PipelineError, match="first layer that reads inputs has no prefix"):
        nearest_words(model.frozen_model, tokenizer, kv_of(model), 1)


def times(kv: KVPrefix, key: float, value: float) -> KVPrefix:
    return replace(
        kv, keys=tuple(k * key for k in kv.keys), values=tuple(v * value for v in kv.values)
    )


def test_an_untrained_prefix_has_not_moved_and_a_longer_one_has() -> None:
    kv = kv_prefix_from_tokens(build("llama"), IDS)
    still = movement(kv, kv)
    assert list(still["distance"]) == [0.0] * 4
    assert list(still["relative"]) == [0.0] * 4
    assert still["cosine"].min() > 1 - 1e-12
    moved = movement(kv, times(kv, 1.5, -2.0)).set_index(["layer", "tensor"])
    for layer, keys in enumerate(kv.keys):
        assert moved.loc[(layer, "key"), "relative"] == pytest.approx(0.5)
        assert moved.loc[(layer, "key"), "distance"] == pytest.approx(float(keys.norm() / 2), 1e-5)
        assert moved.loc[(layer, "value"), "relative"] == pytest.approx(3.0)
        assert moved.loc[(layer, "value"), "cosine"] == pytest.approx(-1.0)
    from_zero = movement(times(kv, 0, 0), kv)
    assert from_zero["relative"].isna().all()
    assert from_zero["cosine"].isna().all()
    assert (from_zero["distance"] > 0).all()


def test_the_way_of_virtual_tokens_adds_up_to_the_layers() -> None:
    kv = kv_prefix_from_tokens(build("llama"), IDS)
    other = times(kv, 1.0, 1.0)
    other.values[1][:, 3] *= 2
    tokens = movement_of_tokens(kv, other)
    far = tokens[tokens["distance"] > 0]
    assert far[["layer", "token", "tensor"]].values.tolist() == [[1, 3, "value"]]
    assert float(far["relative"].iloc[0]) == pytest.approx(1.0)
    layers = movement(kv, other).set_index(["layer", "tensor"])
    assert layers.loc[(1, "value"), "distance"] == pytest.approx(float(far["distance"].iloc[0]))


@pytest.mark.parametrize(("count", "most"), [(1, 32), (32, 32), (33, 32), (100, 32), (7, 3)])
def test_blocks_hold_everything_once(count: int, most: int) -> None:
    found = blocks(count, most)
    assert [index for block in found for index in block] == list(range(count))
    assert len(found) <= most
    assert len({len(block) for block in found[:-1]}) <= 1


EXAMPLES: list[dict[str, Any]] = [
    {"input_ids": [50, 60, 70, 80, 90], "target_start": 3},
    {"input_ids": [51, 61, 71], "target_start": 1},
]


def prefix_of(length: int = 6, seed: int = 2) -> tuple[PrefixModel, KVPrefix]:
    """A model whose prefix moved from the start that is beside."""
    frozen = build("llama")
    torch.manual_seed(seed)
    start = kv_prefix_from_tokens(frozen, list(range(40, 40 + length)))
    moved = replace(
        start,
        keys=tuple(k + 0.1 * torch.randn_like(k) for k in start.keys),
        values=tuple(v + torch.randn_like(v) for v in start.values),
    )
    model = PrefixModel(frozen, PrefixConfig(num_virtual_tokens=length)).eval()
    model.load_kv_prefix(moved)
    return model, start


@torch.no_grad()
def mean_loss(model: Any, p: int = 0) -> float:
    """The loss of a model of transformers, each example alone, after p positions."""
    total = 0.0
    for example in EXAMPLES:
        ids = torch.tensor([example["input_ids"]], device=model.device)
        positions = torch.arange(p, p + ids.shape[1], device=model.device)[None]
        logits = model(input_ids=ids, position_ids=positions).logits[0].log_softmax(-1)
        for at in range(example["target_start"], ids.shape[1]):
            total -= float(logits[at - 1, ids[0, at]])
    return total / 4


def test_what_is_left_out_counts_for_what_it_gives() -> None:
    model, start = prefix_of()
    kv = kv_of(model)
    table = ablation(model, loss_on(EXAMPLES, 1000), start, title=None)
    whole = table.set_index("without")["loss"]
    assert len(table) == 5 + 6 + 2
    assert whole["prefix"] == pytest.approx(mean_loss(model.frozen_model, 6), abs=1e-5)
    assert whole["nothing"] == pytest.approx(mean_loss(model), abs=1e-5)
    for name, other in (
        ("training", start),
        ("trained keys", replace(kv, keys=start.keys)),
        ("trained values", replace(kv, values=start.values)),
    ):
        model.load_kv_prefix(other)
        assert whole[name] == pytest.approx(mean_loss(model), abs=1e-5), name
    model.load_kv_prefix(kv)
    assert kv_of(model).keys[0].equal(kv.keys[0])
    tokens = table[table["without"] == "tokens"]
    layers = table[table["without"] == "layers"]
    for first, kept in ((2, [0, 1, 3, 4, 5]), (5, [0, 1, 2, 3, 4])):
        # A shorter prefix, at the positions of the longer one.
        cache = KVPrefix(tuple(k[:, kept] for k in kv.keys), tuple(v[:, kept] for v in kv.values))
        assert tokens["loss"].iloc[first] == pytest.approx(_after(model, cache), abs=1e-5)
    assert layers["increase"].abs().min() > 1e-5
    assert float(tokens["increase"].iloc[0]) == pytest.approx(
        float(tokens["loss"].iloc[0]) - whole["nothing"]
    )


@torch.no_grad()
def _after(model: PrefixModel, kv: KVPrefix) -> float:
    total = 0.0
    for example in EXAMPLES:
        ids = torch.tensor([example["input_ids"]], device=model.device)
        output = model.frozen_model(
            input_ids=ids,
            position_ids=torch.arange(6, 6 + ids.shape[1], device=model.device)[None],
            attention_mask=torch.ones(1, len(kv) + ids.shape[1], dtype=torch.long),
            past_key_values=kv.to_cache(),
        )
        logits = output.logits[0].log_softmax(-1)
        for at in range(example["target_start"], ids.shape[1]):
            total -= float(logits[at - 1, ids[0, at]])
    return total / 4


def started(frozen: PreTrainedModel) -> PrefixModel:
    """A model after a text's prefix that has moved."""
    model = PrefixModel(frozen, PrefixConfig(num_virtual_tokens=3)).eval()
    torch.manual_seed(3)
    kv = kv_prefix_from_tokens(frozen, [40, 41, 42])
    model.load_kv_prefix(replace(kv, values=tuple(v + torch.randn_like(v) for v in kv.values)))
    return model


def ablated(model: PrefixModel, most_tokens: int) -> pd.DataFrame:
    return ablation(model, loss_on(EXAMPLES, most_tokens), None, title=None)


def whole_passes(model: PrefixModel, most_tokens: int) -> pd.DataFrame:
    with mock.patch.object(KeptStates, "measured", lambda _, __, measure: measure()):
        return ablated(model, most_tokens)


def of_four_layers(name: str) -> PreTrainedModel:
    if name == "qwen3_next":
        return qwen3_next()
    kinds = {"layer_types": ["sliding_attention", "full_attention"] * 2}
    return build(name, {**dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers"), 4), **kinds})


@pytest.mark.parametrize("most_tokens", [1000, 7])
@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom", "gemma3_text", "qwen3_next"])
def test_a_layer_left_out_is_computed_from_there_on(name: str, most_tokens: int) -> None:
    """To the bit what whole passes give, in one batch and in several, packed and padded."""
    model = started(of_four_layers(name))
    attributes = [list(vars(module)) for module in model.frozen_model.modules()]
    found = ablated(model, most_tokens)
    assert [list(vars(module)) for module in model.frozen_model.modules()] == attributes
    pd.testing.assert_frame_equal(found, whole_passes(model, most_tokens), check_exact=True)
    assert found[found["without"] == "layers"]["loss"].nunique() > 1


def test_layers_before_the_one_left_out_are_passed_over() -> None:
    model = started(of_four_layers("llama"))
    attended: list[int] = []
    for number, layer in enumerate(model.frozen_model.model.layers):
        layer.mlp.register_forward_hook(lambda *_, number=number: attended.append(number))
    ablated(model, 1000)
    # Whole: nothing, the prefix, three tokens, and the first two layers. Then all but the first,
    # all but the first two, and the last alone, which has to give what nothing left out gave.
    assert [attended.count(number) for number in range(4)] == [7, 8, 9, 10]


@pytest.mark.parametrize("is_taken", [False, True])
def test_what_layers_tell_each_other_beside_their_states_is_computed_whole(is_taken: bool) -> None:
    """The last layer goes by what the first one has left for it, for each batch anew."""
    model = started(of_four_layers("llama"))
    first, *_, last = model.frozen_model.model.layers
    left: list[torch.Tensor] = []
    first.mlp.register_forward_hook(lambda _, __, out: left.append(out.mean()))
    last.mlp.register_forward_hook(
        lambda _, __, out: out + 9 * (left.pop() if is_taken else left[-1])
    )
    found, whole = ablated(model, 7), whole_passes(model, 7)
    pd.testing.assert_frame_equal(found, whole, check_exact=True)


def test_all_of_it_in_two_tables(tokenizer: PreTrainedTokenizerFast) -> None:
    model, start = prefix_of(40)
    words = words_of(tokenizer, list(range(40, 80)))
    prefix = Prefix("mine", model, tokenizer, start, "a text", words, "validation", EXAMPLES)
    found = look_into(prefix, 1000)
    assert found.notes == ["ablation: tokens are left out in blocks of 2 adjacent ones"]
    layers, tokens = by_layer(found.tables), by_token(found.tables)
    assert list(layers["layer"]) == [0, 1]
    assert list(tokens["token"]) == list(range(40))
    shares = found.tables["attention_of_layers"]
    assert (shares["prefix"] + shares["input"]).round(5).eq(1).all()
    per_layer = found.tables["attention"].groupby("layer")["share"].sum()
    assert list(per_layer.round(9)) == list(layers["attention"].round(9))
    assert (layers["value_moved"] > layers["key_moved"]).all()
    # Both tokens of a block share what its absence adds.
    assert list(tokens["increase"][::2]) == list(tokens["increase"][1::2])
    assert set(losses(found.tables)) == {
        *("nothing", "prefix", "training", "trained keys", "trained values"),
    }
    text = shown(found)
    assert "mine: 40 virtual tokens in 2 layers, started from a text" in text
    assert "the 32 virtual tokens that the loss needs most, of 40" in text


def test_without_inputs_and_without_a_start(tokenizer: PreTrainedTokenizerFast) -> None:
    model, _ = prefix_of(4)
    prefix = Prefix("theirs", model, tokenizer, None, "trained elsewhere", None, "test", [])
    found = look_into(prefix, 1000)
    assert set(found.tables) == {"words"}
    assert len(found.notes) == 2
    assert "theirs" in shown(found)
    assert list(by_token(found.tables).columns) == ["token", "nearest"]
    assert by_layer(found.tables).empty
