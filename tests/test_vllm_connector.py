"""The connector that a folder for vLLM holds, on a stand-in of vLLM's classes and paged cache.

What vLLM itself does with it, `make test-vllm` tries.
"""

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from pipeline.prefix import KVPrefix
from tests.vllm_project import NAMES, drawn_prefix, manifest_of, vllm_project, write_folder

SCHEDULER, WORKER = "scheduler", "worker"
BLOCK, BLOCKS, HEADS, SIZE = 4, 16, 2, 8


class Base:
    """What `KVConnectorBase_V1` keeps for its heirs."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        self._vllm_config = vllm_config
        self._metadata: Any = None

    def bind_connector_metadata(self, metadata: Any) -> None:
        self._metadata = metadata

    def _get_connector_metadata(self) -> Any:
        return self._metadata


def stand_in(version: str = "0.32.0") -> dict[str, ModuleType]:
    """The modules that the connector imports from vLLM, and the names that it takes of each."""
    names: dict[str, dict[str, Any]] = {
        "vllm": {"__version__": version},
        "vllm.distributed.kv_transfer.kv_connector.v1.base": {
            "KVConnectorBase_V1": Base,
            "KVConnectorMetadata": type("KVConnectorMetadata", (), {}),
            "KVConnectorRole": SimpleNamespace(SCHEDULER=SCHEDULER, WORKER=WORKER),
            "SupportsHMA": type("SupportsHMA", (), {}),
        },
        "vllm.distributed.parallel_state": {
            "get_tensor_model_parallel_rank": lambda: RANK[0],
            "get_tensor_model_parallel_world_size": lambda: RANK[1],
        },
        "vllm.logger": {"init_logger": lambda name: SimpleNamespace(info=noted, warning=noted)},
        "vllm.model_executor.models.utils": {
            "extract_layer_index": lambda name: int(name.split(".")[1])
        },
        "vllm.v1.sample.logits_processor": {"LogitsProcessor": type("LogitsProcessor", (), {})},
    }
    found = {}
    for name, attributes in names.items():
        found[name] = ModuleType(name)
        vars(found[name]).update(attributes)
    return found


RANK = [0, 1]
NOTED: list[str] = []


def noted(message: str, *arguments: Any) -> None:
    NOTED.append(message % arguments)


class Layer:
    """An attention layer with its part of the paged cache, and what writes to it."""

    def __init__(self, heads: int) -> None:
        self.num_kv_heads, self.head_size = heads, SIZE
        self.kv_cache = torch.zeros(2, BLOCKS * BLOCK, heads, SIZE)
        self.impl = self

    def do_kv_cache_update(
        self, layer: Any, keys: torch.Tensor, values: torch.Tensor, cache: Any, slots: torch.Tensor
    ) -> None:
        assert len(keys) == len(values) == len(slots)
        cache[0][slots], cache[1][slots] = keys, values


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("project")
        patch.chdir(root)
        write_folder(vllm_project(root), NAMES, Path("served"))
        return root / "served"


@pytest.fixture
def connector(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return loaded(folder, monkeypatch)


def loaded(folder: Path, monkeypatch: pytest.MonkeyPatch, version: str = "0.32.0") -> ModuleType:
    """The connector of a folder, imported where the stand-in is vLLM."""
    for name, module in stand_in(version).items():
        monkeypatch.setitem(sys.modules, name, module)
    path = folder / "prefix_connector.py"
    spec = importlib.util.spec_from_file_location("prefix_connector", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "prefix_connector", module)
    spec.loader.exec_module(module)
    return module


def config(layers: dict[str, Layer], **changes: Any) -> Any:
    parallel = SimpleNamespace(decode_context_parallel_size=1)
    model = SimpleNamespace(
        dtype=torch.float32, hf_text_config=SimpleNamespace(num_hidden_layers=len(layers))
    )
    settings = {"model_config": model, "parallel_config": parallel, "speculative_config": None}
    compiled = SimpleNamespace(static_forward_context=layers)
    return SimpleNamespace(**{**settings, "compilation_config": compiled, **changes})


def groups(*names: list[str]) -> Any:
    spec = SimpleNamespace(block_size=BLOCK)
    listed = [SimpleNamespace(layer_names=each, kv_cache_spec=spec) for each in names]
    return SimpleNamespace(kv_cache_groups=listed)


def blocks(*of_groups: list[int | None]) -> Any:
    """Blocks of each group by id; None is the null block."""
    return SimpleNamespace(
        blocks=tuple(
            [SimpleNamespace(block_id=b or 0, is_null=b is None) for b in ids] for ids in of_groups
        )
    )


@pytest.fixture(params=[(0, 1), (1, 2)], ids=["one rank", "the second of two"])
def rank(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    RANK[:] = request.param
    yield request.param
    RANK[:] = [0, 1]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("cached", [0, 4])
def test_the_slots_of_a_request_get_its_prefix(
    folder: Path, connector: ModuleType, rank: tuple[int, int], name: str, cached: int
) -> None:
    """Of every layer, this rank's heads, at the places that the scheduler gave; nothing else."""
    heads = HEADS // rank[1]
    layers = {f"model.{index}.attn": Layer(heads) for index in range(2)}
    # The second layer slides: its first block is left behind already.
    cache = groups(["model.0.attn"], ["model.1.attn"])
    scheduler = connector.PrefixConnector(config(layers), SCHEDULER, cache)
    worker = connector.PrefixConnector(config(layers), WORKER, cache)
    worker.register_kv_caches({})
    about = manifest_of(folder)["prefixes"][name]
    length = len(about["ids"])
    request = SimpleNamespace(prompt_token_ids=[*about["ids"], 5, 6])
    more, later = scheduler.get_num_new_matched_tokens(request, cached)
    assert (more, later) == (max(0, length - cached), False)
    scheduler.update_state_after_alloc(request, blocks([7, 2, 9], [None, 5, 3]), more)
    metadata = scheduler.build_connector_meta(None)
    assert not scheduler.build_connector_meta(None).loads
    worker.bind_connector_metadata(metadata)
    worker.start_load_kv(SimpleNamespace(no_compile_layers=layers))
    kv = KVPrefix.load(folder / about["file"])
    places_of: list[list[int | None]] = [[7, 2, 9], [None, 5, 3]]
    for index, places in enumerate(places_of):
        expected = torch.zeros_like(layers["model.0.attn"].kv_cache)
        for token in range(cached, length):
            block = places[token // BLOCK]
            if block is not None:
                slot = block * BLOCK + token % BLOCK
                mine = slice(rank[0] * heads, (rank[0] + 1) * heads)
                expected[0][slot] = kv.keys[index][mine, token]
                expected[1][slot] = kv.values[index][mine, token]
        torch.testing.assert_close(layers[f"model.{index}.attn"].kv_cache, expected, rtol=0, atol=0)


def test_a_prompt_without_a_prefix_is_left_alone(folder: Path, connector: ModuleType) -> None:
    scheduler = connector.PrefixConnector(
        config({"model.0.attn": Layer(HEADS), "model.1.attn": Layer(HEADS)}), SCHEDULER, groups([])
    )
    ids = manifest_of(folder)["prefixes"][NAMES[0]]["ids"]
    # No prefix, half of one, one that is not at the beginning, one that asks nothing, no tokens.
    for prompt in ([5, 6], ids[:-1], [5, *ids, 6], ids, None):
        request = SimpleNamespace(prompt_token_ids=prompt)
        assert scheduler.get_num_new_matched_tokens(request, 0) == (0, False)
        scheduler.update_state_after_alloc(request, blocks([1]), 0)
    assert not scheduler.build_connector_meta(None).loads
    assert scheduler.request_finished_all_groups(None, ([1],)) == (False, None)


def test_what_does_not_fit_ends_the_start(
    folder: Path, connector: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of other sizes, a file that was replaced, and what no connector can follow."""
    cache = groups(["model.0.attn", "model.1.attn"])
    layers = {f"model.{index}.attn": Layer(HEADS) for index in range(2)}
    for changes, sentence in (
        ({"speculative_config": object()}, "speculative decoding"),
        (
            {"parallel_config": SimpleNamespace(decode_context_parallel_size=2)},
            "decode context parallelism",
        ),
    ):
        with pytest.raises(ValueError, match=sentence):
            connector.PrefixConnector(config(layers, **changes), WORKER, cache)
    with pytest.raises(ValueError, match="is of another model than this one of 3 layers"):
        connector.PrefixConnector(config({**layers, "model.2.attn": Layer(2)}), WORKER, cache)
    other = {name: Layer(HEADS + 1) for name in layers}
    worker = connector.PrefixConnector(config(other), WORKER, cache)
    with pytest.raises(ValueError, match="the model has 3 heads of size 8 there"):
        worker.register_kv_caches({})
    for file in ("prefix_connector.py", "prefixes.json"):
        (tmp_path / file).write_bytes((folder / file).read_bytes())
    about = json.loads((folder / "prefixes.json").read_text())["prefixes"]
    (tmp_path / "prefixes").mkdir()
    for each in about.values():
        drawn_prefix(4, seed=9).save(tmp_path / each["file"])
    replaced = loaded(tmp_path, monkeypatch)
    with pytest.raises(ValueError, match="is another file than the one that prefixes"):
        replaced.PrefixConnector(config(layers), WORKER, cache)


def test_another_release_of_vllm_is_warned_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = {f"model.{index}.attn": Layer(HEADS) for index in range(2)}
    for version, warns in (("0.32.0", False), ("0.32.0+cpu", False), ("0.33.0", True)):
        NOTED.clear()
        module = loaded(folder, monkeypatch, version)
        module.PrefixConnector(config(layers), SCHEDULER, groups([]))
        assert any(f"this is {version}" in message for message in NOTED) == warns
        assert any(message.startswith(f"prefix {NAMES[0]}: 4") for message in NOTED)


def test_prompt_logprobs_are_refused(connector: ModuleType) -> None:
    processor = connector.RefusePromptLogprobs(None, None, False)
    processor.validate_params(SimpleNamespace(skip_reading_prefix_cache=False))
    with pytest.raises(ValueError, match="prompt_logprobs are not served beside prefixes"):
        processor.validate_params(SimpleNamespace(skip_reading_prefix_cache=True))
    logits = torch.randn(2, 3)
    assert processor.apply(logits) is logits
    assert processor.is_argmax_invariant()
