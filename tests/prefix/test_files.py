"""Prefix files and adapter folders, and the sentence for each that cannot be used."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pipeline.prefix import (
    KVPrefix,
    PrefixConfig,
    PrefixError,
    PrefixModel,
    kv_prefix_from_text,
    kv_prefix_from_tokens,
)
from tests.conftest import kv_of, tiny_model
from tests.prefix.test_prefix_model import BATCH, prefixed, same

TEXT = list(range(10, 18))


def test_a_file_gives_back_what_was_saved(model: PreTrainedModel, tmp_path: Path) -> None:
    kv = kv_prefix_from_tokens(model, TEXT)
    kv.save(tmp_path / "a.safetensors")
    kv.save(tmp_path / "b.safetensors")
    back = KVPrefix.load(tmp_path / "a.safetensors")
    assert same(back, kv)
    assert back.metadata == kv.metadata
    assert {"model", "config_sha256", "dtype", "tokens_sha256"} <= set(back.metadata)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_a_choice_of_layers_is_kept(model: PreTrainedModel, tmp_path: Path) -> None:
    tuned = prefixed(model, TEXT, layers=(1,))
    kv_of(tuned).save(tmp_path / "a.safetensors")
    back = KVPrefix.load(tmp_path / "a.safetensors")
    assert back.layers == (1,)
    again = PrefixModel(model, PrefixConfig(len(TEXT), layers=(1,)))
    again.load_kv_prefix(back)
    assert same(kv_of(again), kv_of(tuned))


@torch.no_grad()
def test_cartridges_go_both_ways(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    from peft import CartridgeConfig, PeftModel, get_peft_model
    from peft.tuners.cartridge.utils import initialize_kv_prefix_from_text

    tuned = prefixed(model, TEXT, num_frozen_tokens=2)
    expected = tuned(**BATCH).logits
    tuned.save_pretrained(tmp_path / "ours")
    theirs = PeftModel.from_pretrained(tiny_model(), tmp_path / "ours").eval()
    assert theirs.peft_config["default"].num_frozen_tokens == 2
    chosen = BATCH["attention_mask"].bool()
    # PEFT counts positions of a left-padded row from its padding: right padding is alike in both.
    row = {"input_ids": torch.tensor([[30, 31, 32]])}
    torch.testing.assert_close(theirs(**row).logits, tuned(**row).logits, rtol=0, atol=1e-4)
    fresh = get_peft_model(
        tiny_model(),
        CartridgeConfig(task_type="CAUSAL_LM", num_virtual_tokens=6, num_frozen_tokens=1),
    ).eval()
    initialize_kv_prefix_from_text(fresh, tokenizer, text="Each record has lines.")
    fresh.save_pretrained(tmp_path / "theirs")
    back = PrefixModel.from_pretrained(tiny_model(), tmp_path / "theirs").eval()
    assert back.prefix_config is not None
    assert back.prefix_config.num_frozen_tokens == 1
    torch.testing.assert_close(back(**row).logits, fresh(**row).logits, rtol=0, atol=1e-4)
    assert expected[chosen].isfinite().all()


@torch.no_grad()
def test_what_peft_trained_with_a_projection_loads(tmp_path: Path) -> None:
    from peft import PrefixTuningConfig, get_peft_model

    config = PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=6, prefix_projection=True, encoder_hidden_size=8
    )
    theirs = get_peft_model(tiny_model(), config).eval()
    theirs.save_pretrained(tmp_path)
    ours = PrefixModel.from_pretrained(tiny_model(), tmp_path).eval()
    row = {"input_ids": torch.tensor([[30, 31, 32]])}
    torch.testing.assert_close(ours(**row).logits, theirs(**row).logits, rtol=0, atol=1e-4)


def test_another_model_of_the_same_shapes_is_warned_of(model: PreTrainedModel) -> None:
    kv = kv_prefix_from_tokens(tiny_model(rms_norm_eps=1e-3), TEXT)
    tuned = PrefixModel(model, PrefixConfig(len(TEXT)))
    with pytest.warns(UserWarning, match="whose configuration differs from this model's"):
        tuned.load_kv_prefix(kv)


def adapter(folder: Path, tensors: dict[str, Any] | None = None, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(
        json.dumps(
            {"peft_type": "PREFIX_TUNING", "num_layers": 2, "num_attention_heads": 2} | config
        )
    )
    if tensors is not None:
        save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def nan(tensor: torch.Tensor) -> torch.Tensor:
    tensor[0, 0] = float("nan")
    return tensor


Bad = Callable[[PreTrainedModel, Path], Any]
WIDTH = 2 * 2 * 16
BAD: dict[str, tuple[Bad, str]] = {
    "p of 0": (
        lambda m, _: PrefixConfig(num_virtual_tokens=0),
        "num_virtual_tokens is 0; a prefix has at least 1",
    ),
    "p above the context": (
        lambda m, _: PrefixModel(m, PrefixConfig(num_virtual_tokens=512)),
        "leaves no room in the model's context of 512 positions",
    ),
    "text above the context": (
        lambda m, _: kv_prefix_from_tokens(m, [5] * 513),
        "513 virtual tokens are more than the model's context of 512",
    ),
    "layer that is not there": (
        lambda m, _: PrefixModel(m, PrefixConfig(2, layers=(0, 7))),
        "layers names 7, but the model's layers are 0 to 1",
    ),
    "all tokens frozen": (
        lambda m, _: PrefixConfig(2, num_frozen_tokens=2),
        "num_frozen_tokens is 2; it must be from 0 to 1",
    ),
    "wrong length": (
        lambda m, _: PrefixModel(m, PrefixConfig(3)).load_kv_prefix(kv_prefix_from_tokens(m, TEXT)),
        "the prefix has 8 virtual tokens, the model's configuration 3",
    ),
    "more layers": (
        lambda m, _: PrefixModel(m, PrefixConfig(8)).load_kv_prefix(
            kv_prefix_from_tokens(tiny_model(num_hidden_layers=3), TEXT)
        ),
        "the prefix has 3 layers, the model 2; it was made for another model",
    ),
    "other heads": (
        lambda m, _: PrefixModel(m, PrefixConfig(8)).load_kv_prefix(
            kv_prefix_from_tokens(tiny_model(num_key_value_heads=4), TEXT)
        ),
        "layer 0: the prefix has (heads, head size) (4, 8) for keys and (4, 8) for values, the "
        "model (2, 8) and (2, 8)",
    ),
    "missing file": (
        lambda m, f: KVPrefix.load(f / "none.safetensors"),
        "none.safetensors: there is no such prefix file",
    ),
    "truncated file": (
        lambda m, f: KVPrefix.load(_truncated(m, f)),
        "is no complete safetensors file",
    ),
    "a file of something else": (
        lambda m, f: KVPrefix.load(_saved(f, {"x": torch.ones(1)})),
        "is a safetensors file, but holds no prefix",
    ),
    "NaN in a file": (
        lambda m, f: KVPrefix.load(_with_nan(m, f)),
        "holds NaN or infinite numbers",
    ),
    "no adapter": (
        lambda m, f: PrefixModel.from_pretrained(m, f / "none"),
        "holds no adapter_config.json; name a PEFT adapter folder",
    ),
    "an adapter of another kind": (
        lambda m, f: PrefixModel.from_pretrained(m, adapter(f / "a", peft_type="LORA")),
        "is a LORA adapter; PREFIX_TUNING or CARTRIDGE is needed",
    ),
    "an adapter without weights": (
        lambda m, f: PrefixModel.from_pretrained(m, adapter(f / "a")),
        "holds no adapter_model.safetensors",
    ),
    "an adapter of another model": (
        lambda m, f: PrefixModel.from_pretrained(
            m, adapter(f / "a", {"prompt_embeddings": torch.ones(4, 100)})
        ),
        f"the adapter is (4, 100) for 2 layers of 2 heads, the model needs (p, {WIDTH})",
    ),
    "NaN in an adapter": (
        lambda m, f: PrefixModel.from_pretrained(
            m, adapter(f / "a", {"prompt_embeddings": nan(torch.ones(4, WIDTH))})
        ),
        "holds NaN or infinite numbers",
    ),
    "another tensor in an adapter": (
        lambda m, f: PrefixModel.from_pretrained(m, adapter(f / "a", {"lora": torch.ones(1)})),
        "holds lora, but no prompt_embeddings",
    ),
    "some layers to PEFT": (
        lambda m, f: prefixed(m, TEXT, layers=(1,)).save_pretrained(f / "a"),
        "PEFT's format holds a prefix for every layer",
    ),
}


def _truncated(model: PreTrainedModel, folder: Path) -> Path:
    path = folder / "cut.safetensors"
    kv_prefix_from_tokens(model, TEXT).save(path)
    path.write_bytes(path.read_bytes()[:-100])
    return path


def _saved(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    save_file(tensors, folder / "other.safetensors")
    return folder / "other.safetensors"


def _with_nan(model: PreTrainedModel, folder: Path) -> Path:
    kv = kv_prefix_from_tokens(model, TEXT)
    nan(kv.keys[0][0])
    kv.save(folder / "nan.safetensors")
    return folder / "nan.safetensors"


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_is_a_sentence(
    name: str, model: PreTrainedModel, tmp_path: Path
) -> None:
    action, expected = BAD[name]
    with pytest.raises(PrefixError) as caught:
        action(model, tmp_path)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.partial"))


def test_a_text_too_short(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(PrefixError, match="the text has 5 tokens, fewer than the 6 virtual"):
        kv_prefix_from_text(model, tokenizer, "short", num_virtual_tokens=6)
    with pytest.raises(PrefixError, match="num_virtual_tokens is 0; a prefix has at least 1"):
        kv_prefix_from_text(model, tokenizer, "short", num_virtual_tokens=0)
