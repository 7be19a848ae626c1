"""A text's BOS stands once, first of all that the model reads, whatever stands before the input."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from pipeline.adapters.prompt_code import as_python, prompt_code
from pipeline.config import Params, load_params
from pipeline.config.task import TaskParams
from pipeline.data.beginning import following
from pipeline.data.rendering import Renderer
from pipeline.data.splits import load_split
from pipeline.data.templates import EmptyRowError
from pipeline.inference.generator import Decoding, generator_of
from pipeline.models.prefixed import prefixed_model
from pipeline.prefix import KVPrefix, PrefixConfig, PrefixModel, kv_prefix_from_text
from pipeline.prefix.files.peft_format import load_adapter, save_adapter
from pipeline.prefix.starts import attended
from pipeline.prefix.starts.beginning import text_tokens, tokens_before
from pipeline.prefix.starts.drawn import kv_prefix_from_words
from pipeline.stages import in_context
from pipeline.storage.records import read_csv, read_json, read_jsonl
from pipeline.sweep.grid import sweep
from pipeline.training.validation import target_loss_of
from pipeline.workspace import paths
from tests.conftest import CORPUS, kv_of, tiny_model, tiny_params, tiny_tokenizer
from tests.conftest import rows as toy_rows
from tests.faults.training_folder import write_params
from tests.task_runs import run_stages
from tests.tokenizers import BOS, DATED, EOS, GEMMA, PHI, TEMPLATES, tokenizer_that

ROW = {"id": "1", "place": "Lima", "size": "3 km"}
P = 6


def renderer(tokenizer: PreTrainedTokenizerFast, **changes: Any) -> Renderer:
    settings = {"input_template": "{{ place }}?", "target_template": "{{ size }}", **changes}
    return Renderer(TaskParams(**settings), tokenizer)


@pytest.mark.parametrize(
    ("begins", "ends"), [(True, False), (True, True), (False, True), (False, False)]
)
def test_a_plain_input_begins_as_the_tokenizer_begins_a_text(begins: bool, ends: bool) -> None:
    tokenizer = tokenizer_that(begins, ends)
    own = tokenizer.encode("Lima?")
    assert (own[0] == BOS, own[-1] == EOS) == (begins, ends)
    rendered = renderer(tokenizer)
    example = rendered.tokenize(ROW)
    expected = own[:-1] if ends else own
    assert example["input_ids"][: example["target_start"]] == expected
    assert example.get("beginning", 0) == int(begins)
    # A target has neither BOS nor an end twice.
    target = tokenizer.encode("3 km", add_special_tokens=False)
    assert example["input_ids"][example["target_start"] :] == [*target, EOS]
    assert rendered.prompt_ids("Lima?", begins_text=True) == expected[int(begins) :]


def test_an_empty_input_with_a_bos_is_empty() -> None:
    with pytest.raises(EmptyRowError, match="the input of example 1 is empty"):
        renderer(tokenizer_that(), input_template="").tokenize(ROW)


@pytest.mark.parametrize("begins", [True, False])
@pytest.mark.parametrize("template", [GEMMA, DATED])
def test_a_chat_template_that_holds_bos_gives_one(template: str, begins: bool) -> None:
    """Whether or not the tokenizer would add it to other texts."""
    tokenizer = tokenizer_that(begins, template=template)
    rendered = renderer(tokenizer, use_chat_template=True)
    example = rendered.tokenize(ROW)
    assert example["input_ids"].count(BOS) == 1
    assert (example["input_ids"][0], example["beginning"]) == (BOS, 1)
    whole = rendered.prompt_ids("Lima?")
    assert rendered.prompt_ids("Lima?", begins_text=True) == whole[1:]
    assert rendered.tokens(rendered.message("Lima"), is_chat=True)[1] == 1
    # A text before such an input begins as it would have, and the input goes on from there.
    plain = tokenizer.encode("Lima", add_special_tokens=False)
    assert rendered.tokens("Lima", is_chat=False) == ([BOS, *plain], 1)


@pytest.mark.parametrize("begins", [True, False])
@pytest.mark.parametrize(
    ("template", "expected"), [(GEMMA, True), (DATED, True), (PHI, False), (None, False)]
)
def test_a_message_begins_a_text_where_its_template_does(
    template: str | None, expected: bool, begins: bool
) -> None:
    chatml = template is None
    tokenizer = tiny_tokenizer() if chatml else tokenizer_that(begins, template=template)
    model = tiny_model(vocab_size=300)
    kv = kv_prefix_from_text(model, tokenizer, CORPUS, P, use_chat_template=True)
    assert kv.begins_text == expected


def test_a_token_before_every_turn_is_no_bos() -> None:
    """SmolLM2 calls the first token of a turn its BOS; it adds none, and its template no other."""
    rendered = renderer(tiny_tokenizer(), use_chat_template=True)
    example = rendered.tokenize(ROW)
    assert example["input_ids"][0] == tiny_tokenizer().bos_token_id
    assert "beginning" not in example
    assert rendered.prompt_ids("Lima?", begins_text=True) == rendered.prompt_ids("Lima?")
    # As transformers has it, a template without BOS gives none where the tokenizer would add one.
    phi = renderer(tokenizer_that(template=PHI), use_chat_template=True)
    assert BOS not in phi.tokenize(ROW)["input_ids"]


@pytest.mark.parametrize("ends", [True, False])
def test_starts_of_a_text_begin_it_and_say_so(ends: bool, tmp_path: Path) -> None:
    model, tokenizer = tiny_model(vocab_size=300), tokenizer_that(True, ends)
    kv = kv_prefix_from_text(model, tokenizer, CORPUS, P)
    words = kv_prefix_from_words(model, tokenizer, ["size", "km"], P, torch.Generator())
    drawn = kv_prefix_from_words(model, tokenizer, None, P, torch.Generator().manual_seed(0))
    bos = kv_prefix_from_text(model, tokenizer, "x", 1)
    for start in (kv, words, drawn, bos):
        assert start.begins_text
        torch.testing.assert_close(start.keys[0][:, :1], bos.keys[0])
    assert (kv[:2].begins_text, kv[2:].begins_text) == (True, False)
    prefixed = PrefixModel(model, PrefixConfig(num_virtual_tokens=P))
    assert not kv_of(prefixed).begins_text
    prefixed.load_kv_prefix(kv)
    kv_of(prefixed).save(tmp_path / "prefix.safetensors")
    assert KVPrefix.load(tmp_path / "prefix.safetensors").begins_text
    save_adapter(kv, tmp_path / "adapter", model.config)
    assert load_adapter(tmp_path / "adapter", prefixed.kv_shapes).begins_text
    assert PrefixModel.from_pretrained(model, tmp_path / "adapter").begins_text
    plain = kv_prefix_from_text(model, tokenizer_that(False, ends), CORPUS, P)
    assert not plain.begins_text
    # A text's end is no part of a context.
    assert text_tokens(tokenizer, "km")[-1] != EOS
    assert tokens_before(tokenizer) == [BOS]


def test_what_begins_a_text_is_kept_however_little_is_seen_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_model(vocab_size=300)
    kv = kv_prefix_from_text(model, tokenizer_that(), CORPUS, 9)
    whole = PrefixModel(model, PrefixConfig(num_virtual_tokens=9)).eval()
    whole.load_kv_prefix(kv)
    seen = torch.arange(9, dtype=torch.float64)
    monkeypatch.setattr(attended, "attention_received", lambda *_: seen.clone())
    picked = attended.most_attended(whole, kv, 3, [])
    assert picked.begins_text
    torch.testing.assert_close(picked.values[0], kv.values[0][:, [0, 7, 8]])


INITIALIZATIONS: dict[str, Any] = {
    "corpus": {"type": "corpus_text", "path": "texts/corpus.txt"},
    "later": {"type": "corpus_text", "path": "texts/corpus.txt", "skip_tokens": 9},
    "chunks": {"type": "corpus_chunks", "path": "texts/corpus.txt", "chunk_tokens": 2},
    "shown": {"type": "demonstrations", "path": "data/raw/train.jsonl"},
    "most": {"type": "most_attended", "path": "texts/corpus.txt", "corpus_tokens": 24},
    "words": {"type": "vocabulary", "path": "data/model/config.json", "words": ["size", "km"]},
    "random": {"type": "random", "path": "data/model/config.json", "scale": 0.5},
    "like_inputs": {"type": "random", "path": "data/model/config.json", "statistics": "inputs"},
    "chosen": {"type": "chosen_demonstrations", "path": "data/raw", "candidates": 2, "examples": 2},
    "best": {"type": "best_chunk", "path": "texts/corpus.txt", "chunks": 2, "examples": 2},
}


def finished(root: Path, template: str | None) -> Params:
    """A sweep over every kind of start, measured where it starts: training takes one tiny step."""
    tiny_model(vocab_size=300).save_pretrained(root / "model")
    tokenizer_that(template=template).save_pretrained(root / "model")
    for folder in ("inputs", "texts"):
        (root / folder).mkdir()
    for split, count in {"train": 8, "validation": 3, "test": 3}.items():
        lines = [json.dumps(row) for row in toy_rows(split, count)]
        (root / "inputs" / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    (root / "texts" / "corpus.txt").write_text(CORPUS)
    params = tiny_params(root / "model")
    params["data"]["files"] = {s: f"inputs/{s}.jsonl" for s in ("train", "validation", "test")}
    params["task"]["use_chat_template"] = template is not None
    kinds = INITIALIZATIONS
    if template is not None:
        kinds = {name: kinds[name] for name in ("corpus", "shown", "random", "like_inputs")}
    params["initializations"] = kinds
    params["sweep"] = {
        **{"lengths": [P], "initializations": list(kinds), "seeds": [0]},
        **{"train_sizes": [], "learning_rates": [], "in_context": ["corpus"]},
    }
    params["train"] |= {"max_steps": 1, "eval_every_steps": 1, "learning_rate": 1e-12}
    params["evaluate"] |= {"device": "cpu", "max_new_tokens": 3}
    params["mlflow"]["models"] = "none"
    params["baselines"]["text"] = {"type": "in_context", "path": "texts/corpus.txt"}
    write_params(root, params)
    loaded = load_params()
    run_stages(loaded)
    in_context.run(loaded, P, "corpus")
    return loaded


@pytest.fixture(scope="module", params=[None, GEMMA], ids=["plain", "chat"])
def done(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder with a finished sweep, and its params."""
    root = tmp_path_factory.mktemp("beginning")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
        params = finished(root, request.param)
    return root, params


@pytest.mark.slow
def test_every_row_of_the_table_is_the_frozen_models_own_numbers(
    done: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing before the input: BOS and the input. A text before it: BOS, the text, the input."""
    root, _ = done
    monkeypatch.chdir(root)
    tokenizer, model = tokenizer_that(), tiny_model(vocab_size=300)
    splits = ("test", "validation")
    rows = [row for split in splits for row in load_split(paths.TOKENIZED / "splits", split)]
    assert all(row["input_ids"].count(BOS) == 1 and row["input_ids"][0] == BOS for row in rows)
    text = text_tokens(tokenizer, CORPUS)
    plain = text[1:]
    # The beginning, the middle, the quarter.
    chunks = [t for k in (0, 128, 64) for t in plain[2 * k : 2 * k + 2]]
    assert (text[0], BOS in plain) == (BOS, False)
    before = {
        "no_prefix": [],
        "text": text,
        f"in_context_corpus-len{P}": text[:P],
        f"len{P}-corpus-seed0": text[:P],
        f"len{P}-later-seed0": [BOS, *plain[9 : 9 + P - 1]],
        f"len{P}-words-seed0": [BOS, *tokenizer.encode("size km")[1:P]],
        f"len{P}-chunks-seed0": [BOS, *chunks[: P - 1]],
    }
    for name, context in before.items():
        if not (paths.EVALUATE / name).exists():
            continue
        lines = read_jsonl(paths.EVALUATE / name / "predictions.jsonl")
        for row, line in zip(rows, lines, strict=True):
            own = row["input_ids"][1:] if context else row["input_ids"]
            ids = torch.tensor([[*context, *own]])
            assert ids[0].tolist().count(BOS) == 1
            targets = len(row["input_ids"]) - row["target_start"]
            with torch.no_grad():
                logits = model(ids).logits[0, -targets - 1 : -1]
            expected = torch.nn.functional.cross_entropy(logits, ids[0, -targets:], reduction="sum")
            assert line["loss"] == pytest.approx(expected.item(), rel=1e-4), name
    assert read_json(paths.EVALUATE / "text" / "metrics.json")["context_tokens"] == len(text)
    # Training and validation see what is measured.
    history = read_csv(paths.TRAIN / f"len{P}-corpus-seed0" / "history.csv")
    validation = load_split(paths.TOKENIZED / "splits", "validation")
    kv = KVPrefix.load(paths.KV_PREFIX / "corpus" / "prefix.safetensors")[:P]
    expected_loss = target_loss_of(prefixed_model(model, kv), following(validation, True), 4096)
    assert history["validation/loss"].iloc[0] == pytest.approx(expected_loss, rel=1e-5)


@pytest.mark.slow
def test_prefixes_say_whether_they_begin_a_text(done: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a text, and noise like such, begin with BOS; other noise does not, its inputs do."""
    root, params = done
    monkeypatch.chdir(root)
    model = tiny_model(vocab_size=300)
    bos = kv_prefix_from_text(model, tokenizer_that(), "x", 1)
    for variant in sweep(params):
        kv = KVPrefix.load(paths.TRAIN / variant.name / "prefix.safetensors")
        is_text = variant.initialization != "random"
        assert kv.begins_text == is_text, variant.name
        alike = torch.allclose(kv.keys[0][:, :1], bos.keys[0], atol=1e-5)
        assert alike == is_text, variant.name
        generator = generator_of(params, variant.name)
        lines = read_jsonl(paths.EVALUATE / variant.name / "predictions.jsonl")
        answers = [generator(line["input"], Decoding(3)) for line in lines]
        assert answers == [line["prediction"] for line in lines], variant.name


CARD_TEMPLATES = {
    **TEMPLATES,
    # It reads a content in parts alone.
    "parts": "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {% for part in m['content'] %}"
    "{{ part['text'] }}{% endfor %}{{ eos_token }}{% endfor %}",
}


@pytest.mark.parametrize("begins_text", [True, False])
@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("template", [None, *CARD_TEMPLATES])
def test_a_cards_code_makes_the_same_tokens(
    template: str | None, ends: bool, begins_text: bool
) -> None:
    tokenizer = tokenizer_that(True, ends, CARD_TEMPLATES[template] if template else None)
    changes: dict[str, Any] = {}
    if template is not None:
        changes = {"use_chat_template": True, "chat_template_kwargs": {"enable_thinking": False}}
    task = renderer(tokenizer, **changes).task
    names: dict[str, Any] = {"tokenizer": tokenizer}
    exec(prompt_code(task, tokenizer, "Lima?", begins_text), names)
    expected = Renderer(task, tokenizer).prompt_ids("Lima?", begins_text)
    assert names["batch"]["input_ids"].tolist() == [expected]
    assert expected.count(BOS) == int(template != "phi" and not begins_text)


def test_a_turn_is_python_whatever_it_holds() -> None:
    call = {"name": "f", "arguments": {"deep": True, "no": None, "list": [1.5, 'a "b"']}}
    turn = {"role": "assistant", "content": "Zürich\n\\", "tool_calls": [call]}
    assert eval(as_python(turn)) == turn
    assert as_python({"role": "user"}) == '{"role": "user"}'
