"""A model whose parts are on several devices, in memory or on disk does what it does in one place.

Two devices are two places on a CPU, see `tests/prefix/places.py`; memory and disk are accelerate's
own hooks, which bring a layer's weights for each call.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    LlamaForSequenceClassification,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from pipeline.loss.cross_entropy import summed_cross_entropy, token_losses
from pipeline.models.frozen import load_frozen_model
from pipeline.prefix import KVPrefix, PrefixConfig, PrefixModel, kv_prefix_from_tokens
from pipeline.prefix.architecture.devices import computing_device, input_device, on_its_layers
from pipeline.schema.compute import Compute
from tests.conftest import kv_of, tiny_model
from tests.prefix.places import Places, place_of, split_over_two

TEXT = [5, 6, 7, 8]
IDS = torch.tensor([[30, 31, 32, 33, 34, 35], [40, 41, 42, 43, 44, 45]])
MASK = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
FRONT = ("model.embed_tokens", "model.rotary_emb", "model.layers.0")
BACK = ("model.layers.1", "model.layers.2", "model.norm", "lm_head")


def over_two(front: tuple[str, ...] = FRONT, back: tuple[str, ...] = BACK) -> dict[str, str]:
    return {**dict.fromkeys(front, "cpu:0"), **dict.fromkeys(back, "cpu:1")}


def llama() -> Any:
    return tiny_model(num_hidden_layers=3)


def sliding() -> PreTrainedModel:
    """A decoder whose padding stands before the prefix, since distance is counted in keys."""
    torch.manual_seed(0)
    config = llama().config.to_dict() | {"sliding_window": 8, "model_type": "mistral"}
    return MistralForCausalLM(MistralConfig(**config)).eval()


def results(model: PreTrainedModel, config: PrefixConfig, device: str) -> dict[str, torch.Tensor]:
    """Logits, gradients, texts and the prefix itself, on every path."""
    torch.manual_seed(1)
    prefixed = PrefixModel(model, config).train()
    kv = kv_prefix_from_tokens(model, TEXT)
    prefixed.load_kv_prefix(kv)
    ids, mask = IDS.to(device), MASK.to(device)
    found: dict[str, torch.Tensor] = {}

    def keep(name: str, logits: torch.Tensor) -> None:
        prefixed.zero_grad()
        logits.pow(2).sum().backward()
        (parameter,) = prefixed.encoder.parameters()
        assert parameter.grad is not None
        found[name], found[f"gradient, {name}"] = logits.detach(), parameter.grad.clone()

    for way in ("kept", "recomputed"):
        if way == "recomputed":
            # The replay is autograd's, which knows of no places: only numbers are compared.
            prefixed.gradient_checkpointing_enable({"determinism_check": "none"})
        keep(f"padded, {way}", prefixed(input_ids=ids, attention_mask=mask).logits)
        if prefixed.why_not_packed(tokens=6) is None:
            keep(
                f"packed, {way}",
                prefixed.packed_logits(ids[0], [2, 4], torch.tensor([1, 3, 5]).to(device)),
            )
    prefixed.gradient_checkpointing_disable()
    prefixed.eval()
    with torch.no_grad(), prefixed.without(tokens=[1]):
        found["one hidden"] = prefixed(input_ids=ids, attention_mask=mask).logits
    found["text"] = prefixed.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=4, do_sample=False
    )
    found |= {f"keys.{i}": key for i, key in enumerate(kv_of(prefixed).keys)}
    prefixed.detach()
    return found


def same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        error = (found[name] - tensor).float().norm() / tensor.float().norm().clamp(min=1e-12)
        assert float(error) <= 1e-5, name


CASES: dict[str, tuple[Any, PrefixConfig]] = {
    "all layers": (llama, PrefixConfig(4)),
    "some layers, always visible": (
        llama,
        PrefixConfig(4, layers=(0, 2), prefix_always_visible=True),
    ),
    "padding before the prefix": (sliding, PrefixConfig(4)),
}


@pytest.mark.parametrize("name", CASES)
def test_two_devices_give_what_one_gives(name: str) -> None:
    build, config = CASES[name]
    wanted = results(build(), config, "cpu")
    spread = build()
    split_over_two(spread, over_two())
    with Places():
        found = results(spread, config, "cpu:0")
    same(found, wanted)


def test_parts_of_an_encoder_decoder_on_two_devices() -> None:
    settings = dict.fromkeys(("encoder_layers", "decoder_layers"), 2)
    settings |= {f"{side}_attention_heads": 2 for side in ("encoder", "decoder")}
    settings |= {f"{side}_ffn_dim": 16 for side in ("encoder", "decoder")}
    config = BartConfig(vocab_size=60, d_model=16, max_position_embeddings=64, **settings)

    def logits(device: str) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(0)
        model = BartForConditionalGeneration(config).eval()
        for part in (
            model.get_encoder().embed_tokens,
            model.get_decoder().embed_tokens,
            model.lm_head,
        ):
            # accelerate would move tied ones, which labels do not follow.
            part.weight = torch.nn.Parameter(part.weight.detach().clone())
        if device != "cpu":
            front = ("embed_tokens", "embed_positions", "layernorm_embedding", "layers.0")
            parts = [f"model.{side}.{name}" for side in ("encoder", "decoder") for name in front]
            last = ("model.encoder.layers.1", "model.decoder.layers.1")
            all_first = ("model.shared", *parts, "lm_head", "final_logits_bias")
            split_over_two(model, over_two(all_first, last))
        torch.manual_seed(1)
        with nullcontext() if device == "cpu" else Places():
            prefixed = PrefixModel(model, PrefixConfig(3)).train()
            # So that its parameters, which a module moves as bare data, are labelled.
            prefixed.load_kv_prefix(kv_of(prefixed))
            found = prefixed(
                input_ids=IDS.to(device), attention_mask=MASK.to(device), labels=IDS.to(device)
            ).logits
            found.pow(2).sum().backward()
        (parameter,) = prefixed.encoder.parameters()
        assert parameter.grad is not None
        return found.detach(), parameter.grad

    found, wanted = logits("cpu:0"), logits("cpu")
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_head_is_trained_where_the_prefix_is() -> None:
    def loss(device: str) -> torch.Tensor:
        config = llama().config
        config.num_labels = 3
        torch.manual_seed(0)
        model = LlamaForSequenceClassification(config).eval()
        if device != "cpu":
            split_over_two(model, over_two(back=(*BACK[:-1], "score")))
        torch.manual_seed(1)
        with nullcontext() if device == "cpu" else Places():
            prefixed = PrefixModel(model, PrefixConfig(3, modules_to_save=("score",))).train()
            logits = prefixed(input_ids=IDS.to(device), attention_mask=MASK.to(device)).logits
            logits.sum().backward()
        assert prefixed.heads.copies[0].weight.grad is not None
        return logits.detach()

    torch.testing.assert_close(loss("cpu:0"), loss("cpu"))


def test_targets_go_to_where_the_logits_are() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(5, 9), torch.tensor([1, 2, 3, 4, 5])
    wanted = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    with Places():
        there, here = logits.to("cpu:1"), targets.to("cpu:0")
        found = summed_cross_entropy(there, here), token_losses(there, here).sum()
    for loss in found:
        torch.testing.assert_close(loss, wanted)


def test_a_prefix_lies_on_its_layers_devices() -> None:
    model = llama()
    split_over_two(model, over_two())
    with Places():
        kv = KVPrefix((torch.ones(2, 4, 8),) * 3, (torch.ones(2, 4, 8),) * 3)
        placed = on_its_layers(kv, model)
        assert placed is not None
        assert [place_of(key) for key in placed.keys] == ["cpu:0", "cpu:1", "cpu:1"]
        of_one = on_its_layers(KVPrefix(kv.keys[:1], kv.values[:1], layers=(2,)), model)
        assert of_one is not None
        assert place_of(of_one.values[0]) == "cpu:1"
    plain = llama()
    assert on_its_layers(kv, plain) is kv
    assert computing_device(plain.lm_head) == torch.device("cpu")


@contextmanager
def offloaded(tmp_path: Path, first: str) -> Iterator[tuple[Any, Any]]:
    """A model from a folder whole, and with layers that wait in memory and on disk, or all."""
    llama().save_pretrained(tmp_path)
    where: dict[str, int | str] = {**dict.fromkeys(FRONT, "cpu"), **dict.fromkeys(BACK, "disk")}
    where |= {"model.embed_tokens": first}
    if first == "all on disk":
        where = {"": "disk"}
    plain = load_frozen_model(tmp_path, Compute(device="cpu"))
    yield plain, load_frozen_model(tmp_path, Compute(), where)


@pytest.mark.parametrize("first", ["cpu", "disk", "all on disk"])
def test_layers_that_wait_on_disk_give_what_those_in_memory_give(
    first: str, tmp_path: Path
) -> None:
    with offloaded(tmp_path, first) as (plain, spread):
        weights = (tmp_path / "model.safetensors").read_bytes()
        assert spread.device == torch.device("cpu" if first == "cpu" else "meta")
        assert input_device(spread) == torch.device("cpu")
        same(results(spread, PrefixConfig(4), "cpu"), results(plain, PrefixConfig(4), "cpu"))
        assert (tmp_path / "model.safetensors").read_bytes() == weights


def test_a_saved_prefix_of_a_spread_model_is_that_of_the_plain_one(tmp_path: Path) -> None:
    with offloaded(tmp_path / "model", "disk") as (plain, spread):
        for name, model in (("plain", plain), ("spread", spread)):
            prefixed = PrefixModel(model, PrefixConfig(4))
            prefixed.load_kv_prefix(kv_prefix_from_tokens(model, TEXT))
            prefixed.save_pretrained(tmp_path / name)
            kv_of(prefixed).save(tmp_path / name / "prefix.safetensors")
        for file in ("prefix.safetensors", "adapter_model.safetensors"):
            assert (tmp_path / "spread" / file).read_bytes() == (
                tmp_path / "plain" / file
            ).read_bytes()


def test_the_places_of_the_tests_are_apart() -> None:
    """Else none of these tests could fail."""
    with Places():
        here, there = torch.ones(2, device="cpu:0"), torch.ones(2).to("cpu:1")
        with pytest.raises(RuntimeError, match="cpu:0 and cpu:1"):
            here + there
        assert place_of(here + here.to("cpu:0")) == "cpu:0"
        assert place_of(there.to(here.device) + here) == "cpu:0"
    assert place_of(torch.ones(2)) == "nowhere"
