"""Prefixes leave as a cache of transformers, and come from checkpoints of Cartridges."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM

from pipeline.adapters.cartridges import load_cartridge
from pipeline.cli.main import main
from pipeline.config import Params, load_params
from pipeline.inference.generator import Decoding, generator_of
from pipeline.inference.selection import load_prefix
from pipeline.prefix import KVPrefix, PrefixError
from pipeline.storage.records import read_json
from tests.vllm_project import NAMES, drawn_prefix, vllm_project


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Params]:
    """A project, which is the working directory while tests here run."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("project")
        patch.chdir(folder)
        yield vllm_project(folder)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("name", NAMES)
def test_the_cache_cards_code_answers_as_generate_does(
    params: Params, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path("exported") / name
    assert "as a KV cache for transformers" in run(
        "export", str(folder), "--format", "cache", "--variant", name
    )
    card = (folder / "README.md").read_text()
    assert "library_name: transformers" in card
    assert "peft" not in card
    (code,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert "pipeline" not in code
    answer = generator_of(params, name)("...", Decoding(params.evaluate.max_new_tokens))
    capsys.readouterr()
    exec(code.replace('folder = "."', f"folder = {str(folder)!r}"), {})
    assert capsys.readouterr().out == answer + "\n"
    tensors = load_file(folder / "cache.safetensors")
    kv = KVPrefix.load(f"data/train/{name}/prefix.safetensors")
    assert f"{sum(tensor.numel() for tensor in tensors.values())} numbers" in card
    for index, (key, value) in enumerate(zip(kv.keys, kv.values, strict=True)):
        torch.testing.assert_close(tensors[f"keys.{index}"][0], key, rtol=0, atol=0)
        torch.testing.assert_close(tensors[f"values.{index}"][0], value, rtol=0, atol=0)


def test_a_prefix_that_a_cache_cannot_hold_is_refused(params: Params) -> None:
    path = Path("data/train") / NAMES[0] / "prefix.safetensors"
    before = path.read_bytes()
    try:
        drawn_prefix(4, layers=1).of_layers((0,)).save(path)
        result = CliRunner().invoke(
            main, ["export", "other", "--format", "cache", "--variant", NAMES[0]]
        )
    finally:
        path.write_bytes(before)
    assert result.exit_code == 1
    assert "cannot be a plain KV cache: it holds every layer" in result.stderr
    assert not Path("other").exists()


def test_a_file_to_verify_is_for_formats_that_compare_it(params: Params) -> None:
    arguments = ["export", "other", "--verify", "model.gguf", "--variant", NAMES[0]]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert "--verify: --format peft compares no file of the frozen model" in result.stderr
    assert "or use --format llama.cpp" in result.stderr
    assert not Path("other").exists()


def checkpoint(kv: KVPrefix, frozen: int, first: str = "frozen") -> dict[str, Any]:
    """What Cartridges' `TrainableCache.save` writes of a prefix."""
    found: dict[str, Any] = {}
    for what, tensors in (("keys", kv.keys), ("values", kv.values)):
        before = [nn.Parameter(t[None, :, :frozen].contiguous()) for t in tensors]
        rest = [nn.Parameter(t[None, :, frozen:].contiguous()) for t in tensors]
        found[f"trainable_{what}"] = nn.ParameterList(rest)
        found[f"{first}_{what}"] = nn.ParameterList(before if frozen else [])
    return found


@pytest.mark.parametrize(("frozen", "first"), [(1, "frozen"), (0, "frozen"), (2, "fixed")])
def test_a_checkpoint_of_cartridges_joins_the_comparison(
    params: Params, tmp_path: Path, frozen: int, first: str
) -> None:
    """It is written as PEFT's cartridge, and frozen tokens come first."""
    kv = drawn_prefix(5, seed=3)
    torch.save(checkpoint(kv, frozen, first), tmp_path / "cache_last.pt")
    name = f"cartridge_{frozen}"
    said = run("import", str(tmp_path / "cache_last.pt"), "--name", name)
    assert f"adapters/{name}: 5 virtual tokens" in said
    config = read_json(Path("adapters") / name / "adapter_config.json")
    kind = "CARTRIDGE" if frozen else "PREFIX_TUNING"
    assert (config["peft_type"], config.get("num_frozen_tokens", 0)) == (kind, frozen)
    loaded = load_prefix(load_params(), name, AutoModelForCausalLM.from_pretrained("data/model"))
    for ours, theirs in zip((*loaded.keys, *loaded.values), (*kv.keys, *kv.values), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


class Evil:
    """Would run code where it is unpickled as Python allows."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("ran"),)


NAN = torch.full((1, 2, 3, 8), torch.nan)
DAMAGED: dict[str, tuple[Any, str]] = {
    "code": ({"trainable_keys": [Evil()]}, "is no checkpoint of keys and values alone"),
    "no pickle": (b"no pickle at all", "is no checkpoint of keys and values alone"),
    "something else": ({"weights": torch.zeros(2)}, "holds no trainable_keys and trainable_values"),
    "other tensors": (
        {"trainable_keys": [torch.zeros(2, 3)], "trainable_values": [torch.zeros(2, 3)]},
        r"trainable_keys are no tensors \[1, heads, tokens, head size\]",
    ),
    "layers that differ": (
        {**checkpoint(drawn_prefix(3), 1), "frozen_keys": [torch.zeros(1, 2, 1, 8)]},
        "has frozen tokens of 1 layers and trainable_keys of 2",
    ),
    "numbers that are none": (
        {"trainable_keys": [NAN], "trainable_values": [NAN]},
        "holds NaN or infinite numbers",
    ),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_checkpoint_that_is_none_is_refused_and_runs_no_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    content, sentence = DAMAGED[what]
    monkeypatch.chdir(tmp_path)
    if isinstance(content, bytes):
        Path("cache.pt").write_bytes(content)
    else:
        torch.save(content, "cache.pt")
    with pytest.raises(PrefixError, match=f"cache.pt: .*{sentence}"):
        load_cartridge(Path("cache.pt"))
    assert not Path("ran").exists()


def test_another_models_checkpoint_is_refused_by_its_own_name(
    params: Params, tmp_path: Path
) -> None:
    before = Path("params.yaml").read_bytes()
    torch.save(checkpoint(drawn_prefix(4, layers=3), 1), tmp_path / "other.pt")
    result = CliRunner().invoke(main, ["import", str(tmp_path / "other.pt")])
    assert result.exit_code == 1
    assert f"{tmp_path / 'other.pt'}: the adapter is" in result.stderr
    assert "made for another model" in result.stderr
    assert Path("params.yaml").read_bytes() == before
    assert not Path("adapters/other").exists()
