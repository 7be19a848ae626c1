"""Starts that validation chooses from several, and the mean of several chunks."""

import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM, PreTrainedModel

from pipeline.config import Params, load_params
from pipeline.config.load import read_yaml
from pipeline.data.beginning import following
from pipeline.data.splits import load_split
from pipeline.errors import PipelineError
from pipeline.initialization.prefix_file import PrefixFile
from pipeline.inspection.origins import origins
from pipeline.inspection.variant import prefix_of
from pipeline.models.first_tokens import KEPT, stored_tokens
from pipeline.models.for_initialization import ForInitialization
from pipeline.models.for_variant import ForVariant, start_prefix
from pipeline.models.frozen import load_frozen_model
from pipeline.models.prefixed import prefixed_model
from pipeline.models.trainable import prefix_config
from pipeline.prefix import (
    KVPrefix,
    PrefixConfig,
    PrefixModel,
    kv_prefix_from_tokens,
    mean_kv_prefix,
    untrained_loss,
)
from pipeline.prefix.chosen import tokens_in
from pipeline.stages import (
    baseline_start,
    baselines,
    kv_prefix,
    train,
    train_baseline,
    train_together,
)
from pipeline.storage.records import read_json, read_jsonl
from pipeline.sweep.baselines import Baseline
from pipeline.sweep.variants import Variant
from pipeline.training.validation import target_loss_of
from pipeline.workspace import paths
from pipeline.workspace.timings import read_timing
from tests.conftest import tiny_model
from tests.faults.training_folder import make_training_folder, working_in, write_params
from tests.hybrids import lfm2
from tests.prefix.test_initializers import equal

P = 20
TEMPLATE = "{{ key }}: {{ value }}"
STARTS: dict[str, dict[str, Any]] = {
    "shown": {"type": "demonstrations", "path": "data/raw/train.jsonl", "template": TEMPLATE},
    "chosen": {
        **{"type": "chosen_demonstrations", "path": "data/raw", "template": TEMPLATE},
        **{"chosen": 2, "candidates": 3, "examples": 4},
    },
    "one": {
        **{"type": "chosen_demonstrations", "path": "data/raw", "template": TEMPLATE},
        **{"chosen": 1, "candidates": 12, "examples": 4},
    },
    "best": {"type": "best_chunk", "path": "texts/corpus.txt", "chunks": 5, "examples": 4},
    "mean": {"type": "averaged_chunks", "path": "texts/corpus.txt", "chunks": 5},
    "like_inputs": {"type": "random", "path": "data/model/config.json", "statistics": "inputs"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder before `train`, without its test splits: nothing here may read them."""
    folder = tmp_path_factory.mktemp("chosen")
    make_training_folder(folder)
    with working_in(folder):
        raw = read_yaml(Path("params.yaml"))
        raw["initializations"] = STARTS
        raw["sweep"] |= {"initializations": list(STARTS), "lengths": [4, P]}
        raw["kv_prefix"]["max_length"] = P
        write_params(folder, raw)
        (paths.RAW_DATA / "test.jsonl").unlink()
        for name in STARTS:
            kv_prefix.run(load_params(), name)
        yield folder


@pytest.fixture
def params(folder: Path) -> Params:
    return load_params()


def frozen_model(params: Params) -> Any:
    return load_frozen_model(paths.MODEL, params.kv_prefix)


def start_of(params: Params, name: str, length: int = P, folder: Path | None = None) -> KVPrefix:
    model = PrefixModel(frozen_model(params), PrefixConfig(length))
    try:
        return start_prefix(Variant(length, name, 0), model, folder)
    finally:
        model.detach()


def validation_loss(params: Params, kv: KVPrefix) -> float:
    """As the stage `train` measures it before its first step."""
    split = load_split(paths.TOKENIZED / "splits", "validation")
    model = prefixed_model(frozen_model(params), kv)
    loss = target_loss_of(model, following(split, kv.begins_text), 512)
    model.detach()
    return loss


def cache_of(params: Params, rows: list[dict[str, Any]]) -> KVPrefix:
    """The KV cache of rows' demonstrations, up to P tokens."""
    context = ForInitialization(params, "chosen")
    tokens, _ = context.rendering.tokens(
        context.rendering.demonstrations(rows, TEMPLATE), is_chat=False
    )
    return kv_prefix_from_tokens(context.frozen_model, tokens[:P])


@pytest.mark.parametrize("name", ["chosen", "best", "mean", "like_inputs"])
def test_a_start_from_a_copy_reads_nothing_else(
    params: Params, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a trained baseline's prefix does, which depends on the copy alone."""
    expected = start_of(params, name)
    shutil.copytree(paths.KV_PREFIX / name, tmp_path / "copy")
    monkeypatch.setattr(paths, "KV_PREFIX", tmp_path / "nowhere")
    equal(start_of(params, name, folder=tmp_path / "copy"), expected)
    if name in ("best", "mean"):
        # Whether it begins a text is the copy's to say, too.
        expected.beginning_text(True).save(tmp_path / "copy" / KEPT)
        assert start_of(params, name, folder=tmp_path / "copy").begins_text


def test_a_start_is_measured_as_training_measures_it(params: Params) -> None:
    examples = ForInitialization(params, "chosen").validation(
        paths.RAW_DATA / "validation.jsonl", 100, begins_text=False
    )
    kv = start_of(params, "shown")
    found = untrained_loss(frozen_model(params), kv, examples)
    assert found == pytest.approx(validation_loss(params, kv), rel=1e-5)


def test_the_first_demonstration_is_the_best_of_all(params: Params) -> None:
    rows = {str(row["id"]): row for row in read_jsonl(paths.RAW_DATA / "train.jsonl")}
    losses = {name: validation_loss(params, cache_of(params, [row])) for name, row in rows.items()}
    best = min(losses, key=lambda name: losses[name])
    text = (paths.KV_PREFIX / "one" / "text.txt").read_text()
    assert text.startswith(f"{rows[best]['key']}: {rows[best]['value']}")
    assert losses[best] < max(losses.values())
    assert sorted(text.split()) == sorted(
        (paths.KV_PREFIX / "shown" / "text.txt").read_text().split()
    )


def test_what_is_chosen_is_no_worse_than_what_it_is_chosen_from(params: Params) -> None:
    chosen, first = (validation_loss(params, start_of(params, name)) for name in ("one", "shown"))
    assert chosen <= first


def test_a_choice_has_the_same_bytes_again(params: Params) -> None:
    files = sorted((paths.KV_PREFIX / "chosen").iterdir())
    before = [path.read_bytes() for path in files]
    kv_prefix.run(params, "chosen")
    assert [path.read_bytes() for path in files] == before


def test_each_round_tries_others_after_what_is_chosen(
    params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {row["key"]: row for row in read_jsonl(paths.RAW_DATA / "train.jsonl")}
    keys = re.findall("train [0-9]+", (paths.KV_PREFIX / "shown" / "text.txt").read_text())
    waiting = [rows[key] for key in keys]
    shown: list[dict[str, Any]] = []
    for _ in range(2):
        tried, waiting = waiting[:3], waiting[3:]
        losses = [validation_loss(params, cache_of(params, [*shown, row])) for row in tried]
        shown.append(tried.pop(losses.index(min(losses))))
        waiting += tried
    kv_prefix.run(params, "chosen")
    said = "chosen: chooses 2 of at most 6 demonstrations by the loss of 4 validation examples"
    assert said in capsys.readouterr().err
    text = (paths.KV_PREFIX / "chosen" / "text.txt").read_text()
    found = re.findall("train [0-9]+", text)
    assert found == [row["key"] for row in [*shown, *waiting]]
    equal(start_of(params, "chosen"), cache_of(params, shown), 1e-5)
    equal(start_of(params, "chosen", 4), cache_of(params, shown)[:4], 1e-5)


@pytest.mark.parametrize("length", [4, P])
def test_the_best_chunk_has_the_lowest_loss_at_every_length(params: Params, length: int) -> None:
    stored = stored_tokens(paths.KV_PREFIX / "best")
    chunks = [stored["tokens"][at : at + length] for at in range(0, 5 * P, P)]
    assert len(stored["tokens"]) == 5 * P
    starts = [kv_prefix_from_tokens(frozen_model(params), tokens) for tokens in chunks]
    losses = [validation_loss(params, kv) for kv in starts]
    equal(start_of(params, "best", length), starts[losses.index(min(losses))], 1e-5)
    model = PrefixModel(frozen_model(params), PrefixConfig(length))
    tokens = params.initializations["best"].tokens(ForVariant(Variant(length, "best", 0), model))
    model.detach()
    assert tokens == chunks[losses.index(min(losses))]


@pytest.fixture
def to_train(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Any]]:
    """Params of short trainings in a folder of their own, without MLflow."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    with working_in(tmp_path):
        raw = read_yaml(Path("params.yaml"))
        raw["train"] |= {"max_steps": 1, "warmup_steps": 0}
        raw["train"]["learning_rate_search"] = {"candidates": 2}
        yield raw


def windows() -> PreTrainedModel:
    """A model whose window hides a prefix from the ends of inputs."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "max_position_embeddings": 512}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = MistralConfig(vocab_size=260, sliding_window=16, **sizes, **heads)
    return MistralForCausalLM(config).eval()


@pytest.mark.parametrize(
    ("model", "section"),
    [
        (tiny_model, {"layers": [0]}),
        (lfm2, {"kinds": ["attention"]}),
        (windows, {"prefix_always_visible": True}),
    ],
    ids=["layers", "kinds", "windows"],
)
def test_a_start_is_judged_as_the_prefix_that_trains(
    model: Callable[[], PreTrainedModel], section: dict[str, Any], to_train: dict[str, Any]
) -> None:
    """The chunk is chosen, and the baseline measured, as training measures it at step 0."""
    variant = Variant(4, "best", 0)
    model().save_pretrained(paths.MODEL)
    to_train["prefix"] |= section
    start = {"type": "untrained", "path": "data/kv_prefix/best", "length": 4}
    write_params(Path(), {**to_train, "baselines": {"start": start}})
    params = load_params()
    kv_prefix.run(params, "best")
    train.run(params, variant)
    baselines.run(params, "start")
    begun = read_json(paths.TRAIN / variant.name / "metrics.json")["validation/initial_loss"]
    measured = read_json(paths.EVALUATE / "start" / "metrics.json")["validation"]["loss"]
    assert measured == pytest.approx(begun, rel=1e-6)
    stored = stored_tokens(paths.KV_PREFIX / "best")["tokens"]
    losses = [loss_in_training(params, stored[at : at + 4]) for at in range(0, 5 * P, P)]
    assert begun == pytest.approx(min(losses), rel=1e-6)


def loss_in_training(params: Params, tokens: list[int]) -> float:
    """Of a start from tokens before the first step."""
    model = PrefixModel(frozen_model(params), prefix_config(params.prefix, len(tokens), ()))
    model.load_kv_prefix(kv_prefix_from_tokens(model.frozen_model, tokens))
    return target_loss_of(model.eval(), load_split(paths.TOKENIZED / "splits", "validation"), 512)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of the prefixes that a choice measured, each of which takes a moment."""
    lengths: list[int] = []

    def slowly(frozen_model: Any, kv: KVPrefix, *others: Any) -> float:
        lengths.append(len(kv))
        time.sleep(0.02)
        return untrained_loss(frozen_model, kv, *others)

    monkeypatch.setattr("pipeline.prefix.untrained_loss", slowly)
    return lengths


BEST = (Variant(4, "best", 0), Variant(6, "best", 0))
TOGETHER: dict[str, dict[str, dict[str, Any]]] = {
    "together": {},
    "layers": {"prefix": {"layers": [1]}},
    "rates": {"train": {"learning_rate": "auto"}},
}


@pytest.mark.parametrize("what", TOGETHER)
def test_variants_choose_once_and_it_counts_as_their_training(
    what: str, to_train: dict[str, Any], measured: list[int]
) -> None:
    """Together, and where they turn out to train one after another."""
    for section, keys in TOGETHER[what].items():
        to_train[section] |= keys
    write_params(Path(), to_train)
    shown = Variant(4, "shown", 0)
    train_together.run(load_params(), [*BEST, shown])
    assert measured == [*[4] * 5, *[6] * 5]
    for variant in BEST:
        timed = read_timing(variant.name)
        assert 0.1 <= timed["start_seconds"] < timed["training_seconds"]
    assert "start_seconds" not in read_timing(shown.name)
    # A training that is taken up again chooses again, which is its own.
    shutil.rmtree(paths.TRAIN)
    train.run(load_params(), BEST[0])
    timed = read_timing(BEST[0].name)
    assert 0.1 <= timed["start_seconds"] < timed["training_seconds"]


def test_a_start_that_trains_beside_lora_is_chosen_once_and_counts_too(
    to_train: dict[str, Any], measured: list[int]
) -> None:
    both = {"type": "prefix_and_lora", "initialization": "best", "length": 4, "rank": 2}
    write_params(Path(), {**to_train, "trained_baselines": {"both": both}})
    params = load_params()
    baseline_start.run(params, "both")
    train_baseline.run(params, Baseline("both", seed=0))
    assert measured == [4] * 5
    timed = read_timing("both-seed0")
    assert 0.1 <= timed["start_seconds"] < timed["training_seconds"]


def test_looking_into_a_prefix_chooses_nothing_again(
    to_train: dict[str, Any], measured: list[int]
) -> None:
    variant = BEST[0]
    to_train["sweep"] |= {"lengths": [4], "initializations": ["best"]}
    write_params(Path(), to_train)
    params = load_params()
    train.run(params, variant)
    expected = start_of(params, "best", 4)
    trained = KVPrefix.load(paths.TRAIN / variant.name / "prefix.safetensors")
    measured.clear()
    prefix = prefix_of(params, variant.name, lambda _: trained, "validation", None)
    assert prefix.start is not None
    equal(prefix.start, expected, 1e-6)
    table = origins(params, prefix.model.frozen_model, prefix.tokenizer)
    assert measured == []
    assert list(table["word"]) == prefix.words
    # What nothing trained from is chosen, once.
    shutil.rmtree(paths.TRAIN)
    again = origins(params, prefix.model.frozen_model, prefix.tokenizer)
    assert measured == [4] * 5
    assert again.equals(table)
    # A prefix that starts from a trained one was not chosen to be those tokens.
    assert tokens_in(trained.metadata) == list(table["id"])
    assert tokens_in(trained[:2].metadata) is None
    trained.save(paths.KV_PREFIX / "best" / KEPT)
    start = PrefixFile.model_validate({"type": "prefix_file", "path": "trained.safetensors"})
    model = PrefixModel(frozen_model(params), PrefixConfig(4))
    assert tokens_in(start.start(ForVariant(variant, model)).metadata) is None


def test_the_mean_of_chunks_is_cut_to_a_shorter_one(params: Params) -> None:
    stored = stored_tokens(paths.KV_PREFIX / "mean")["tokens"]
    model = frozen_model(params)
    caches = [kv_prefix_from_tokens(model, stored[at : at + P]) for at in range(0, 5 * P, P)]
    equal(start_of(params, "mean"), mean_kv_prefix(caches), 1e-6)
    equal(start_of(params, "mean", 4), start_of(params, "mean")[:4], 1e-5)


def test_noise_like_inputs_begins_no_text_where_inputs_do_not(params: Params) -> None:
    kv = start_of(params, "like_inputs")
    assert not kv.begins_text
    equal(kv, start_of(params, "like_inputs"))


def test_a_classifier_has_no_such_loss(params: Params) -> None:
    task = params.task.model_copy(update={"type": "seq_cls", "use_chat_template": False})
    with pytest.raises(PipelineError, match=r"initializations\.chosen: is chosen by the loss of"):
        kv_prefix.run(params.model_copy(update={"task": task}), "chosen")


def test_a_missing_validation_split_is_told(params: Params) -> None:
    path = paths.RAW_DATA / "validation.jsonl"
    content = path.read_bytes()
    path.unlink()
    try:
        with pytest.raises(PipelineError, match=r"validation\.jsonl: no such file"):
            kv_prefix.run(params, "chosen")
    finally:
        path.write_bytes(content)
