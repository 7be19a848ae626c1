"""A state file has the bytes that llama.cpp writes, and what it cannot hold is refused."""

import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from transformers import LlamaConfig, MistralConfig

from benchmarks.llama_gguf import write_gguf
from pipeline.cli.main import main
from pipeline.config import Params
from pipeline.config.serving import LlamaCppParams
from pipeline.errors import PipelineError
from pipeline.prefix import KVPrefix, kv_prefix_from_tokens
from pipeline.serving.llama_cpp.key_order import interleaved, key_order
from pipeline.serving.llama_cpp.launching import started
from pipeline.serving.llama_cpp.placeholders import (
    ordinary_tokens,
    placeholder_ids,
    refuse_alike,
)
from pipeline.serving.llama_cpp.refusals import refuse_beyond_context, refuse_prefix
from pipeline.serving.llama_cpp.saved_state import read_state
from pipeline.serving.llama_cpp.state_format import (
    CACHE_TYPES,
    VERSIONS,
    StateFormat,
    numbers_of,
    state_bytes,
    stored,
)
from pipeline.serving.llama_cpp.verification import verify
from pipeline.serving.llama_cpp.writing import write_state
from pipeline.storage.records import read_json
from tests.conftest import tiny_model, tiny_tokenizer
from tests.serving.llama_cpp_project import LONG, talking_model

FORMS = st.builds(
    StateFormat,
    st.sampled_from(["f32", "f16", "bf16"]),
    st.booleans(),
    st.integers(1, 4),
    st.sampled_from([3, 4]),
)


def layers_of(seed: int, layers: int, cells: int) -> list[tuple[np.ndarray, np.ndarray]]:
    random = np.random.default_rng(seed)
    shapes = ((2, cells, 8), (2, cells, 6))
    return [tuple(random.normal(size=s).astype("f4") for s in shapes) for _ in range(layers)]  # type: ignore[misc]


@settings(max_examples=40, deadline=None)
@given(FORMS, st.integers(0, 9), st.integers(1, 3), st.integers(1, 5))
def test_a_file_reads_back_as_what_was_written(
    form: StateFormat, seed: int, count: int, cells: int
) -> None:
    layers = layers_of(seed, count, cells)
    found = read_state(state_bytes(layers, range(10, 10 + cells), form))
    assert found.form == form
    for (keys, values), row, value_row in zip(layers, found.keys, found.values, strict=True):
        for tensor, read in ((keys, row), (values, value_row)):
            held = numbers_of(stored(tensor, form.cache_type), form.cache_type)
            assert (read == held.transpose(1, 0, 2).reshape(cells, -1)).all()


def test_bfloat16_rounds_as_torch_does() -> None:
    numbers = np.random.default_rng(0).normal(size=4096).astype("f4") * 100
    expected = torch.from_numpy(numbers).bfloat16().float().numpy()
    assert (numbers_of(stored(numbers, "bf16"), "bf16") == expected).all()


def test_numbers_beyond_half_precision_are_refused() -> None:
    layers = [(np.full((1, 2, 4), 7e4, "f4"), np.zeros((1, 2, 4), "f4"))]
    with pytest.raises(PipelineError, match=r"a number of 7e\+04, beyond a cache of f16; set"):
        state_bytes(layers, [1, 2], StateFormat("f16"))
    assert state_bytes(layers, [1, 2], StateFormat("bf16"))


@pytest.mark.parametrize(
    ("kind", "flash", "streams"),
    [("f32", True, 2), ("f16", False, 1), ("bf16", True, 1), ("f16", True, 3)],
)
def test_the_bytes_are_those_that_llama_cpp_writes_for_the_same_cells(
    kind: str, flash: bool, streams: int, llama_cpp_project: Params, tmp_path: Path
) -> None:
    pytest.importorskip("xllamacpp", reason="llama.cpp's server is the extra llama_cpp")
    model, ordinary = talking_model(), ordinary_tokens(tiny_tokenizer())
    tokens = placeholder_ids("any", 5, ordinary)
    given = {"cache_type": kind, "flash_attn": flash, "slots": streams}
    options = LlamaCppParams.model_validate({**given, "context": 256, "threads": 1})
    with started(Path("model.gguf"), options) as server:
        verified = verify(server, model, ordinary)
        assert verified.form == StateFormat(kind, not flash, streams, 4)
        for order in verified.order.of_layers:
            assert (order == interleaved(8)).all()
        kv = kv_prefix_from_tokens(model, list(range(10, 15)))
        size = write_state(kv, server.state_folder / "ours.bin", tokens, verified)
        for action, file in (("restore", "ours.bin"), ("save", "theirs.bin")):
            body = {"filename": file}
            answer = httpx2.post(f"{server.url}/slots/0?action={action}", json=body).json()
            assert answer["n_restored" if action == "restore" else "n_saved"] == 5
        ours, theirs = (
            (server.state_folder / file).read_bytes() for file in ("ours.bin", "theirs.bin")
        )
    assert len(ours) == size
    # The server packs its list of tokens, and reads a plain one.
    (packed,) = struct.unpack_from("<I", theirs, 8)
    assert ours[12 + 4 * 5 :] == theirs[12 + 4 * packed :]


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(8)), st.integers(0, 99))
def test_any_order_of_keys_is_found(order: list[int], seed: int) -> None:
    layers = layers_of(seed, 2, 16)
    keys = [k[..., order].transpose(1, 0, 2).reshape(16, -1) for k, _ in layers]
    values = [v.transpose(1, 0, 2).reshape(16, -1) for _, v in layers]
    noise = np.random.default_rng(seed).normal(size=keys[0].shape).astype("f4") / 50
    found = key_order(layers, [key + noise for key in keys], values)
    assert all(list(each) == list(order) for each in found.of_layers)
    assert found.values == 0 < found.keys < 0.1
    with pytest.raises(PipelineError, match="computes values that differ"):
        key_order(layers, keys, values[::-1])
    with pytest.raises(PipelineError, match="a cache of 1 layers, the frozen model one of 2"):
        key_order(layers, keys[:1], values[:1])


def changed(content: bytes, at: int, number: int) -> bytes:
    return content[:at] + struct.pack("<I", number) + content[at + 4 :]


def test_states_of_other_caches_are_refused() -> None:
    content = state_bytes(layers_of(0, 2, 3), [1, 2, 3], StateFormat("f16"))
    with pytest.raises(PipelineError, match="saves states of version 5, and versions 3 and 4 are"):
        read_state(changed(content, 4, 5))
    # The type of the first layer's keys: behind tokens, cells, and what is said of all layers.
    kind = 12 + 4 * 3 + 8 + 12 * 3 + 16
    with pytest.raises(PipelineError, match="ggml's type 8, which are quantized, and rotated"):
        read_state(changed(content, kind, 8))
    for damaged in (content + bytes(40), content[:-4], changed(content, 12 + 4 * 3 + 12, 2)):
        with pytest.raises(PipelineError, match="besides keys and values of every token it keeps"):
            read_state(damaged)


def test_placeholders_go_by_the_file_and_never_begin_alike() -> None:
    ordinary = ordinary_tokens(tiny_tokenizer())
    assert min(ordinary) == 4
    ids = placeholder_ids("aa", 16, ordinary)
    assert ids == placeholder_ids("aa", 16, ordinary)
    assert ids[:8] == placeholder_ids("aa", 8, ordinary)
    assert ids[:8] != placeholder_ids("ab", 8, ordinary)
    other = placeholder_ids("ab", 16, ordinary)
    refuse_alike({"a": ("aa", ids), "b": ("ab", other), "c": ("ac", ids[1:]), "best": ("aa", ids)})
    with pytest.raises(PipelineError, match="ids of long begin with all of those of short"):
        refuse_alike({"long": ("aa", ids), "other": ("ab", other), "short": ("ac", ids[:4])})


def zeros(count: int, **more: Any) -> KVPrefix:
    tensors = tuple(torch.zeros(2, 3, 8) for _ in range(count))
    return KVPrefix(tensors, tensors, **more)


LLAMA = LlamaConfig(num_hidden_layers=2)
ENCODER_DECODER = SimpleNamespace(is_encoder_decoder=True)


@pytest.mark.parametrize(
    ("kv", "config", "always_visible", "reason"),
    [
        (zeros(2, parts=("encoder", "decoder"), layers=(0,)), LLAMA, False, "encoder-decoder"),
        (zeros(2), ENCODER_DECODER, False, "encoder-decoder"),
        (zeros(1, layers=(1,)), LLAMA, False, "a prefix in 1 of 2 layers"),
        (zeros(2, states={"0.conv": torch.zeros(3)}), LLAMA, False, "states of recurrent layers"),
        (zeros(2, modules={"score.weight": torch.zeros(3)}), LLAMA, False, "weights of its own"),
        (zeros(2), MistralConfig(num_hidden_layers=2), False, "a window of 4096 tokens"),
        (zeros(2), MistralConfig(num_hidden_layers=2), True, "prefix.prefix_always_visible: "),
    ],
)
def test_what_llama_cpp_cannot_hold_is_refused_with_its_reason(
    kv: KVPrefix, config: Any, always_visible: bool, reason: str
) -> None:
    with pytest.raises(PipelineError, match=reason):
        refuse_prefix("mine", kv, config, always_visible)
    refuse_prefix("mine", zeros(2), LLAMA, True)
    with pytest.raises(PipelineError, match=r"mine has 31 virtual tokens, and a slot .* 32"):
        refuse_beyond_context("mine", 31, 32)


RUNNING = {"server": "http://127.0.0.1:8080", "state_folder": "slots"}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"server": "http://127.0.0.1:8080"}, "server needs state_folder; give both, or neither"),
        (
            {"state_folder": "slots"},
            "state_folder needs server, the address of one that runs; give",
        ),
        ({"server": "bin/llama-server", "state_folder": "slots"}, "state_folder needs server, the"),
        ({**RUNNING, "gguf": "model.gguf"}, "server has its own gguf; give that where it is"),
        ({**RUNNING, "slots": 4}, "server has its own slots; give that where it is started"),
        ({**RUNNING, "server": "localhost:8080"}, "state_folder needs server, the address of one"),
        ({**RUNNING, "server": "ftp://localhost"}, "server is no address: ftp://localhost; give"),
        ({"cache_typ": "f32"}, "cache_typ"),
        ({"cache_type": "q8_0"}, "cache_type"),
        ({"threads": "4"}, "threads"),
    ],
)
def test_options_that_make_no_server_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        LlamaCppParams.model_validate(options)
    assert LlamaCppParams.model_validate({**RUNNING, "slots": 2}).context == 2048
    named = LlamaCppParams.model_validate({"server": "bin/llama-server", "slots": 4})
    assert (named.running_at, named.slots) == (None, 4)


def test_what_params_take_is_what_states_are_written_in() -> None:
    for name, written in (("cache_type", CACHE_TYPES), ("state_version", VERSIONS)):
        given = [*written, None] if name == "state_version" else list(written)
        for value in given:
            assert getattr(LlamaCppParams.model_validate({name: value}), name) == value


def exported(params: Params, folder: Path, verify: str = "model.gguf", **options: Any) -> Any:
    """The command with these options of llama.cpp's, put into params.yaml."""
    changed = params.model_dump(mode="json", exclude_unset=True)
    changed["serving"]["llama_cpp"].update(options)
    with Path("params.yaml").open("w") as file:
        YAML(typ="safe").dump(changed, file)
    arguments = ["--format", "llama.cpp", "--variant", LONG, "--verify", verify]
    return CliRunner().invoke(main, ["export", str(folder), *arguments])


def test_export_writes_what_restores_or_nothing(llama_cpp_project: Params, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="llama.cpp's server is the extra llama_cpp")
    before = Path("params.yaml").read_bytes()
    try:
        _export(llama_cpp_project, tmp_path)
    finally:
        Path("params.yaml").write_bytes(before)


def _export(params: Params, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    done = exported(params, folder, slots=1, state_version=3)
    assert done.exit_code == 0, done.output
    assert "llama.cpp keeps keys permuted, rotary pairs side by side" in done.output
    assert f"{folder}: {LONG} as a state file of llama.cpp, with a model card" in done.output
    about = read_json(folder / "prefix.json")
    found = read_state((folder / "prefix.bin").read_bytes())
    assert found.form == StateFormat("f32", True, 1, 3)
    assert about["state_version"] == 3
    assert about["num_virtual_tokens"] == len(about["placeholder_ids"]) == 4
    written = sorted(path.name for path in folder.iterdir())
    assert written == ["README.md", "prefix.bin", "prefix.json"]
    # The same format replaces it without being forced.
    assert exported(params, folder, slots=1).exit_code == 0
    assert read_json(folder / "prefix.json")["state_version"] == 4

    write_gguf(tmp_path / "other.gguf", tiny_model(seed=1), tiny_tokenizer())
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("kept")
    refusals: tuple[tuple[dict[str, Any], str], ...] = (
        ({"verify": str(tmp_path / "other.gguf")}, "computes values that differ"),
        ({"verify": "nowhere.gguf"}, "there is no such file"),
        ({"cache_type": "q8_0"}, "serving.llama_cpp.cache_type"),
        ({"state_version": 9}, "serving.llama_cpp.state_version"),
    )
    for options, reason in refusals:
        refused = exported(params, tmp_path / "nothing", **options)
        assert refused.exit_code == 1
        assert reason in refused.output
        assert not (tmp_path / "nothing").exists()
    assert "holds other files" in exported(params, tmp_path / "taken").output
