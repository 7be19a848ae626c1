"""Every token that takes a position is counted before a training; no room is a sentence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from datasets import Dataset
from ruamel.yaml import YAML
from transformers import EsmConfig, EsmForSequenceClassification, GPT2Config, GPT2LMHeadModel

from pipeline.cli.main import main
from pipeline.config.evaluate import EvaluateParams
from pipeline.config.task import TaskParams
from pipeline.config.train import TrainParams
from pipeline.errors import PipelineError
from pipeline.evaluation.generation import measure_examples
from pipeline.inference.generator import Decoding, TextGenerator
from pipeline.prefix import PrefixConfig, PrefixModel
from pipeline.prefix.architecture.context import context_of as context_of_model
from pipeline.preflight.context import context_of
from pipeline.stages import kv_prefix
from pipeline.training.loop import train_prefix
from tests.conftest import tiny_params, tiny_tokenizer
from tests.prefix import architectures, encoders

POSITIONS = 64


def gpt2() -> GPT2LMHeadModel:
    """The model of the paper, with 64 positions."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 260, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": POSITIONS}
    off = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
    return GPT2LMHeadModel(GPT2Config(**sizes, **off, **ends)).eval()


def test_the_counted_room_is_the_model_s_own() -> None:
    """Seven new tokens after 8 and 50 fit, of which the last is never read; eight do not."""
    model = PrefixModel(gpt2(), PrefixConfig(8))
    rows = [{"input_ids": [9] * 56, "target_start": 50}, {"input_ids": [9] * 5, "target_start": 3}]
    data = Dataset.from_list(rows)
    train_prefix(model, data, data, TrainParams(), 0, lambda step, metrics: None)
    # No token ends a text early.
    model.frozen_model.generation_config.eos_token_id = None
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    for new, fits in ((7, True), (8, False)):
        params = EvaluateParams(splits=["test"], max_new_tokens=new)
        if fits:
            measure_examples(model, tokenizer, data, params, "test", 4096)
            continue
        with pytest.raises(IndexError):
            measure_examples(model, tokenizer, data, params, "test", 4096)


LEARNED = {*("gpt2", "opt", "gpt_neo", "gptj", "gpt_bigcode", "mpt")}
"""Decoders that fail beyond their last position."""

ROTARY = ("modernbert", "nomic_bert")
"""Encoders that go on beyond theirs."""


@pytest.mark.parametrize(
    "name", [*sorted(LEARNED), "llama", "bloom", "falcon (ALiBi)", "falcon (grouped)"]
)
def test_a_decoder_s_context(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family, settings = architectures.SETTINGS[name]
    ends = ("max_position_embeddings", "n_positions", "max_seq_len")
    shorter = {key: 40 if key in ends else value for key, value in settings.items()}
    monkeypatch.setitem(architectures.SETTINGS, name, (family, shorter))
    model = architectures.build(name)
    context = None if name in ("bloom", "falcon (ALiBi)") else 40
    assert context_of_model(model) == context
    assert context_of(json.loads(model.config.to_json_string())) == context
    model(input_ids=torch.full((1, context or 99), 9))
    if name in LEARNED:
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, 41), 9))


@pytest.mark.parametrize("name", [*encoders.ENCODER_DECODERS, *encoders.ENCODERS])
def test_a_context_beside_an_encoder(name: str) -> None:
    changes: dict[str, Any] = {"pad_token_id": 5} if name == "roberta" else {}
    model = encoders.build(name, **changes)
    context = None if name in ("t5", "mt5", "longt5") else 64 - 6 if name == "roberta" else 64
    config = json.loads(model.config.to_json_string())

    def read(encoder: int, decoder: int) -> None:
        written = {"decoder_input_ids": torch.full((1, decoder), 9)}
        model(
            input_ids=torch.full((1, encoder), 9),
            **(written if model.config.is_encoder_decoder else {}),
        )

    for part, tokens in (("encoder", (65, 3)), ("decoder", (3, 65))):
        assert context_of_model(model, part) == context
        assert context_of(config, part) == context
        is_part = part == "encoder" or model.config.is_encoder_decoder
        if context is None or name in ROTARY or not is_part:
            read(*tokens)
        else:
            over, other = context + 1, 3
            with pytest.raises((IndexError, RuntimeError)):
                read(*((over, other) if part == "encoder" else (other, over)))
    read(context or 99, context or 99)


@pytest.mark.parametrize(("kind", "context"), [("absolute", 64 - 6), ("rotary", 64)])
def test_a_family_whose_positions_are_of_two_kinds(kind: str, context: int) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"vocab_size": 33, "pad_token_id": 5, "max_position_embeddings": 64}
    config = EsmConfig(**sizes, **ends, intermediate_size=16, position_embedding_type=kind)
    model = EsmForSequenceClassification(config)
    assert context_of_model(model) == context
    assert context_of(json.loads(model.config.to_json_string())) == context
    model(input_ids=torch.full((1, context), 9))


def test_contexts_within_a_configuration() -> None:
    inner = {"model_type": "gemma3_text", "max_position_embeddings": 99}
    assert context_of({"model_type": "gemma3", "text_config": inner}) == 99
    both = {"encoder": {"max_position_embeddings": 7}, "decoder": {"max_position_embeddings": 9}}
    assert [context_of(both, part) for part in ("encoder", "decoder")] == [7, 9]


Edit = Callable[[dict[str, Any]], Any]


def _in_context(params: dict[str, Any]) -> None:
    text = {"type": "in_context", "path": "texts/corpus.txt", "max_tokens": 22}
    params["baselines"]["text"] = text


def _adapter(params: dict[str, Any]) -> None:
    folder = Path("adapters/longer")
    PrefixModel(gpt2(), PrefixConfig(30)).save_pretrained(folder)
    params["baselines"]["longer"] = {"type": "adapter", "path": str(folder)}


def _attended(params: dict[str, Any]) -> None:
    most = {"type": "most_attended", "path": "texts/corpus.txt", "corpus_tokens": 40}
    params["initializations"]["most"] = most
    params["sweep"]["initializations"] = ["most"]


def _matched(params: dict[str, Any]) -> None:
    # Two more than the inputs after it have room for, without their targets.
    few = {"type": "attention_matching", "path": "texts/corpus.txt", "corpus_tokens": 23}
    params["initializations"]["few"] = few
    params["sweep"]["initializations"] = ["few"]


def _trained(**definition: Any) -> Edit:
    return lambda params: params.update(trained_baselines={"other": definition})


def _chosen(params: dict[str, Any]) -> None:
    # Beside the sweep: its cache is computed all the same.
    params["initializations"]["chosen"] = {"type": "chosen_demonstrations", "path": "data/raw"}
    params["kv_prefix"]["max_length"] = 23


def _matched_beside_lora(params: dict[str, Any]) -> None:
    _matched(params)
    params["sweep"]["initializations"] = ["random"]
    _trained(type="prefix_and_lora", initialization="few", length=8)(params)


def _attended_untrained(params: dict[str, Any]) -> None:
    _attended(params)
    params["sweep"]["initializations"] = ["random"]
    start = {"type": "untrained", "path": "data/kv_prefix/most", "length": 8}
    params["baselines"]["start"] = start


def _beyond_the_context(params: dict[str, Any]) -> None:
    # Of no variant: its cache is computed all the same.
    most = {"type": "most_attended", "path": "texts/corpus.txt", "corpus_tokens": 65}
    params["initializations"]["most"] = most


def _said_by_the_system(params: dict[str, Any]) -> None:
    # 8 of the text and 29 of the turns around it.
    turns = {"use_chat_template": True, "system_prompt": ""}
    params["task"] |= {**turns, "input_template": "{{ text[-8:] }}"}
    params["evaluate"]["max_new_tokens"] = 21


REFUSED: dict[str, tuple[Edit, str]] = {
    "new tokens": (
        lambda p: p["evaluate"].update(max_new_tokens=32),
        "evaluate.max_new_tokens: 32 tokens after the longest input of validation, which has 40, "
        "and the 8 of a prefix are more than the model's context of 64 positions; lower it, lower "
        "sweep.lengths or lower task.max_length",
    ),
    "one new token too many": (
        lambda p: p["evaluate"].update(max_new_tokens=18),
        "evaluate.max_new_tokens: 18 tokens after the longest input of validation",
    ),
    "the turns of a chat": (
        _said_by_the_system,
        "evaluate.max_new_tokens: 21 tokens after the longest input of validation, which has ",
    ),
    "a text in the context": (
        _in_context,
        "evaluate.max_new_tokens: 4 tokens after the longest input of validation, which has 40, "
        "and the 22 of baselines.text are more than the model's context of 64 positions; lower it, "
        "lower baselines.text.max_tokens or lower task.max_length",
    ),
    "an adapter": (_adapter, "leave out baselines.longer or lower task.max_length"),
    "a size of more examples than there are": (
        lambda p: p["sweep"].update(train_sizes=[4, 5]),
        "sweep.train_sizes: 5 is above the 4 examples of the training split; lower it",
    ),
    "a prompt": (
        _trained(type="prompt_tuning", num_virtual_tokens=23),
        "task.max_length: the longest example of train has 42 tokens, which after the 23 of "
        "trained_baselines.other are more than the model's context of 64 positions; lower "
        "trained_baselines.other.num_virtual_tokens or lower task.max_length",
    ),
    "a prefix beside LoRA": (
        _trained(type="prefix_and_lora", initialization="random", length=23),
        "lower trained_baselines.other.length or lower task.max_length",
    ),
    "what demonstrations are chosen by": (
        _chosen,
        "initializations.chosen: is chosen by validation examples, of which the longest has 42 "
        "tokens, after as many as kv_prefix.max_length: 23, and both are more than the model's "
        "context of 64 positions; lower kv_prefix.max_length or task.max_length",
    ),
    "a text that examples are read after": (
        _matched,
        "initializations.few.corpus_tokens: the longest example of train has 42 tokens, which "
        "after 23 of the text are more than the model's context of 64 positions; lower it",
    ),
    "a text that inputs are read after": (
        _attended,
        "initializations.most.corpus_tokens: the longest input of train has 40 tokens, which after "
        "40 of the text are more than the model's context of 64 positions; lower it",
    ),
    "the same beside LoRA": (
        _matched_beside_lora,
        "initializations.few.corpus_tokens: the longest example of train has 42 tokens, which",
    ),
    "the same untrained": (
        _attended_untrained,
        "initializations.most.corpus_tokens: the longest input of train has 40 tokens, which",
    ),
    "a text that is chosen from": (
        _beyond_the_context,
        "initializations.most.corpus_tokens: 65 tokens of the text are more than the model's "
        "context of 64 positions; lower it",
    ),
}  # fmt: skip


def prepare(folder: Path, edit: Edit) -> None:
    """Params, data whose inputs have 40 tokens and targets of 2, and a model of 64 positions."""
    gpt2().save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    (folder / "inputs").mkdir()
    for split in ("train", "validation", "test"):
        lines = [json.dumps({"text": f"{i}".rjust(40, "."), "answer": "a"}) for i in range(4)]
        (folder / "inputs" / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "texts").mkdir()
    # Longer than the context: only its first tokens are read.
    (folder / "texts" / "corpus.txt").write_text("A line names a field. " * 9)
    params = tiny_params(folder / "model")
    splits = ("train", "validation", "test")
    params["data"]["files"] = {split: f"inputs/{split}.jsonl" for split in splits}
    templates = {"input_template": "{{ text }}", "target_template": "{{ answer }}"}
    params["task"] = {**templates, "max_length": 56}
    params["sweep"]["lengths"] = [8]
    edit(params)
    with (folder / "params.yaml").open("w") as file:
        YAML(typ="safe").dump(params, file)


def call(*arguments: str) -> str | None:
    """The sentence of a command that refuses; None for one that runs."""
    result = CliRunner().invoke(main, list(arguments))
    assert "Traceback" not in result.output
    if result.exit_code == 0:
        return None
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_room_is_refused_by_tokenize(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.chdir(tmp_path)
    edit, expected = REFUSED[case]
    prepare(tmp_path, edit)
    assert call("fetch_model") is None
    assert call("fetch_data") is None
    assert expected in str(call("tokenize"))


def test_what_just_fits_is_not_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a corpus longer than the context gives a prefix all the same."""
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path, lambda p: p["evaluate"].update(max_new_tokens=17))
    commands = ("fetch_model", "fetch_data", "tokenize")
    assert [call(command) for command in commands] == [None, None, None]
    from pipeline.config import load_params

    kv_prefix.run(load_params(), "corpus")


def test_check_reads_a_local_model_s_context(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing has run yet."""
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path, lambda p: p["evaluate"].update(max_new_tokens=57))
    assert "evaluate.max_new_tokens: 57 tokens after a prefix of 8 are more" in str(call("check"))


@pytest.mark.parametrize("p", [0, 8])
def test_an_input_or_an_answer_beyond_the_context(p: int) -> None:
    """Of the command `generate` and of a served model, which answer by this class."""
    task = TaskParams(input_template="{{ x }}", target_template="{{ y }}")
    model = PrefixModel(gpt2(), PrefixConfig(p) if p else None)
    generator = TextGenerator(model, tiny_tokenizer(), task)
    generator("a" * (POSITIONS - p - 4), Decoding(max_new_tokens=5))
    with pytest.raises(PipelineError, match=rf"the input has {60 - p} tokens and the answer up to"):
        generator("a" * (POSITIONS - p - 4), Decoding(max_new_tokens=6))
    with pytest.raises(PipelineError, match=f"the model's context of {POSITIONS} positions"):
        generator("a" * 200, Decoding(max_new_tokens=1))


def test_an_encoder_decoder_counts_apart() -> None:
    task = TaskParams(type="seq2seq_lm", input_template="{{ x }}", target_template="{{ y }}")
    bart = encoders.build("bart", vocab_size=260)
    generator = TextGenerator(PrefixModel(bart, PrefixConfig(4)), tiny_tokenizer(), task)
    text = "a" * 59  # and the token that ends it
    generator(text, Decoding(max_new_tokens=60))
    with pytest.raises(PipelineError, match="the answer has up to 61 tokens, which after a prefix"):
        generator(text, Decoding(max_new_tokens=61))
    with pytest.raises(PipelineError, match=r"the input has 6\d tokens, which after a prefix of 4"):
        generator(text + "aa", Decoding(max_new_tokens=1))
