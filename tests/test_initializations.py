"""Every initialisation of params.yaml, from its stage to the prefix that a variant starts from."""

from typing import Any

import pytest
import torch

from pipeline.config import load_params
from pipeline.errors import PipelineError
from pipeline.models.for_variant import start_prefix
from pipeline.models.frozen import load_frozen_model
from pipeline.prefix import PrefixConfig, PrefixModel
from pipeline.stages import kv_prefix
from pipeline.sweep.variants import Variant
from pipeline.workspace import paths
from tests.conftest import Workspace

pytestmark = pytest.mark.real

SHAPE = "data/model/config.json"
TYPES: dict[str, dict[str, Any]] = {
    "random": {"type": "random", "path": SHAPE, "scale": 0.1},
    "like_inputs": {"type": "random", "path": SHAPE, "statistics": "inputs", "texts": 3},
    "like_words": {"type": "random", "path": SHAPE, "statistics": "vocabulary"},
    "zero": {"type": "zero", "path": SHAPE},
    "drawn": {"type": "vocabulary", "path": SHAPE},
    "words": {"type": "vocabulary", "path": SHAPE, "words": ["size", "value"]},
    "span": {"type": "corpus_text", "path": "texts/corpus.txt", "skip_tokens": 9},
    "chat": {"type": "corpus_text", "path": "texts/corpus.txt", "use_chat_template": True},
    "chunks": {"type": "corpus_chunks", "path": "texts/corpus.txt", "chunk_tokens": 3},
    "averaged": {"type": "averaged_chunks", "path": "texts/corpus.txt", "chunks": 3},
    "best": {"type": "best_chunk", "path": "texts/corpus.txt", "chunks": 3, "examples": 2},
    "demonstrations": {"type": "demonstrations", "path": "data/raw/train.jsonl"},
    "chosen": {"type": "chosen_demonstrations", "path": "data/raw", "candidates": 2},
    "templated": {
        "type": "demonstrations",
        "path": "data/raw/train.jsonl",
        "template": "{{ key }}: {{ value }}",
    },
    "attended": {"type": "most_attended", "path": "texts/corpus.txt", "corpus_tokens": 40},
    "matched": {"type": "attention_matching", "path": "texts/corpus.txt", "corpus_tokens": 40},
    "earlier": {"type": "prefix_file", "path": "inputs/adapter"},
    "variant": {
        "type": "trained_variant",
        "path": "data/train/len2-corpus-seed0/prefix.safetensors",
    },
}


@pytest.mark.parametrize("name", TYPES)
def test_an_initialisation_starts_a_variant(
    copy: Workspace, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(copy.root)
    copy.edit(lambda p: p["initializations"].update({name: TYPES[name]}))
    copy.edit(lambda p: p["sweep"]["initializations"].append(name) if name != "random" else None)
    params_model = load_frozen_model(paths.MODEL, load_base(copy))
    if name == "earlier":
        adapter = PrefixModel(params_model, PrefixConfig(num_virtual_tokens=3))
        adapter.save_pretrained(copy.root / "inputs" / "adapter")
    params = load_params()
    kv_prefix.run(params, name)
    assert (paths.KV_PREFIX / name / "definition.json").exists()
    model = PrefixModel(params_model, PrefixConfig(num_virtual_tokens=4))
    starts = [start_prefix(Variant(4, name, seed), model) for seed in (0, 0, 1)]
    assert [len(start) for start in starts] == [4, 4, 4]
    model.load_kv_prefix(starts[0])
    assert starts[0].keys[1].equal(starts[1].keys[1])
    drawn_by_seed = name in ("random", "like_inputs", "like_words", "drawn")
    assert starts[0].keys[1].equal(starts[2].keys[1]) is not drawn_by_seed


@pytest.mark.parametrize("name", ["attended", "matched"])
def test_what_reads_after_a_text_judges_by_the_layers_that_train(
    copy: Workspace, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(copy.root)
    copy.edit(lambda p: p["initializations"].update({name: TYPES[name]}))
    copy.edit(lambda p: p["sweep"]["initializations"].append(name))
    frozen = load_frozen_model(paths.MODEL, load_base(copy))
    kv_prefix.run(load_params(), name)
    kept: dict[tuple[int, ...] | None, tuple[torch.Tensor, ...]] = {}
    for layers in (None, (0,), (1,)):
        model = PrefixModel(frozen, PrefixConfig(num_virtual_tokens=4, layers=layers))
        model.load_kv_prefix(start_prefix(Variant(4, name, 0), model))
        kv = model.kv_prefix()
        assert kv is not None
        kept[layers] = kv.keys
        model.detach()
    # What a query asks for in the first layer depends on nothing before it; in the second it does.
    assert [len(keys) for keys in kept.values()] == [2, 1, 1]
    assert not torch.allclose(kept[1,][0], kept[None][1], atol=1e-5)


def load_base(workspace: Workspace) -> Any:
    return load_params(workspace.root / "params.yaml").kv_prefix


def test_a_corpus_too_short(copy: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copy.root)
    (copy.root / "texts" / "short.txt").write_text("too short")
    start = {"type": "corpus_chunks", "path": "texts/short.txt"}
    copy.edit(lambda p: p["initializations"].update(short=start))
    with pytest.raises(
        PipelineError, match=r"initializations\.short: its text has \d+ tokens, fewer than"
    ):
        kv_prefix.run(load_params(), "short")
    assert not (paths.KV_PREFIX / "short").exists()
