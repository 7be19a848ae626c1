"""Tokenizers in Python, without tokenizer.json: kept whole, or refused in a sentence."""

from pathlib import Path
from typing import Any

import pytest
from transformers import BertTokenizer, BlenderbotSmallTokenizer, GPT2Tokenizer

from pipeline.config.model import LocalModel
from pipeline.config.task import TaskParams
from pipeline.data.targets import check_words
from pipeline.errors import PipelineError
from pipeline.models.tokenizer import load_tokenizer
from pipeline.sources.model import fetch_model
from pipeline.workspace import paths
from tests.conftest import tiny_tokenizer
from tests.task_runs import MODELS, SLOW_VOCABULARY, slow_tokenizer
from tests.test_context import call, prepare


def test_a_tokenizer_in_python_is_kept_whole(tmp_path: Path) -> None:
    tokenizer = slow_tokenizer()
    MODELS["blenderbot-small"]().save_pretrained(tmp_path / "slow")
    tokenizer.save_pretrained(tmp_path / "slow")
    params = LocalModel(source="local", path=str(tmp_path / "slow"), dtype="float32")
    fetch_model(params, tmp_path / "model")
    fetched = load_tokenizer(tmp_path / "model")
    assert not fetched.is_fast
    assert fetched.get_vocab() == {token: i for i, token in enumerate(SLOW_VOCABULARY)}
    text = "a red name red"
    ids = [SLOW_VOCABULARY.index(token) for token in ("a", "red", "n@@", "a@@", "m@@", "e", "red")]
    assert fetched(text)["input_ids"] == tokenizer(text)["input_ids"] == ids
    assert fetched.decode(ids) == text
    first = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    fetch_model(params, tmp_path / "model")
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == first


def test_the_texts_before_inputs_are_counted_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 9 tokens, which 40 of the input and 16 new ones leave room for in a context of 64."""

    def with_text(params: dict[str, Any]) -> None:
        text = {"type": "in_context", "path": "texts/few.txt", "max_tokens": 30}
        params["baselines"]["text"] = text
        params["task"]["input_template"] = "{{ 'a' * 40 }}"
        params["evaluate"]["max_new_tokens"] = 16

    monkeypatch.chdir(tmp_path)
    prepare(tmp_path, with_text)
    for file in (tmp_path / "model").glob("*token*"):
        file.unlink()
    slow_tokenizer().save_pretrained(tmp_path / "model")
    text = tmp_path / "texts" / "few.txt"
    text.write_text("a " * 9)
    assert [call(command) for command in ("fetch_model", "fetch_data")] == [None, None]
    assert not (paths.MODEL / "tokenizer.json").exists()
    assert call("tokenize") is None
    text.write_text("a " * 10)
    assert "and the 10 of baselines.text are more than" in str(call("tokenize"))


def test_a_tokenizer_in_python_knows_no_words() -> None:
    task = TaskParams(type="token_cls", input_template="a", target_template="b")
    check_words(task, tiny_tokenizer())
    with pytest.raises(
        PipelineError, match=r"task\.type: .* this model's BlenderbotSmallTokenizer"
    ):
        check_words(task, slow_tokenizer())
    check_words(task.model_copy(update={"type": "seq_cls"}), slow_tokenizer())


def test_a_tokenizer_that_cannot_be_saved_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    MODELS["blenderbot-small"]().save_pretrained(tmp_path / "slow")
    slow_tokenizer().save_pretrained(tmp_path / "slow")
    params = LocalModel(source="local", path=str(tmp_path / "slow"), dtype="float32")
    monkeypatch.setattr(BlenderbotSmallTokenizer, "save_vocabulary", lambda *_, **__: ())
    with pytest.raises(PipelineError, match="'slow' has a tokenizer that cannot be saved: "):
        fetch_model(params, tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("settings", ['{"tokenizer_class": "MarianTokenizer"}', "{}"])
def test_a_tokenizer_of_sentencepiece_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: str
) -> None:
    MODELS["bart"]().save_pretrained(tmp_path / "opus")
    (tmp_path / "opus" / "config.json").write_text('{"model_type": "marian"}')
    (tmp_path / "opus" / "tokenizer_config.json").write_text(settings)
    for name in ("source.spm", "target.spm"):
        (tmp_path / "opus" / name).write_bytes(b"pieces")
    (tmp_path / "opus" / "vocab.json").write_text('{"a": 0}')
    monkeypatch.setattr("pipeline.sources.model.find_spec", lambda _: None)
    params = LocalModel(source="local", path=str(tmp_path / "opus"))
    with pytest.raises(PipelineError, match=r"tokenizer of 'opus' needs .* '\.\[sentencepiece\]'"):
        fetch_model(params, tmp_path / "model")


def test_merges_that_are_others_once_saved_are_refused(tmp_path: Path) -> None:
    """BERTweet's tokenizer saves merges without their counts, and takes a part for one."""
    MODELS["bart"]().save_pretrained(tmp_path / "tweets")
    files = {
        "tokenizer_config.json": '{"tokenizer_class": "BertweetTokenizer"}',
        "vocab.txt": "a 1\nred 1\nre@@ 1\nd 1\n",
        "bpe.codes": "r e 1\n",
    }
    for name, content in files.items():
        (tmp_path / "tweets" / name).write_text(content)
    params = LocalModel(source="local", path=str(tmp_path / "tweets"), dtype="float32")
    with pytest.raises(PipelineError, match="'tweets' has a tokenizer that is another once saved"):
        fetch_model(params, tmp_path / "model")


@pytest.mark.parametrize("made_up", [GPT2Tokenizer, BertTokenizer])
def test_a_model_without_a_tokenizer_is_refused(tmp_path: Path, made_up: type) -> None:
    """transformers makes one up that knows no word."""
    MODELS["bart"]().save_pretrained(tmp_path / "alone")
    settings = f'{{"tokenizer_class": "{made_up.__name__}"}}'
    (tmp_path / "alone" / "tokenizer_config.json").write_text(settings)
    params = LocalModel(source="local", path=str(tmp_path / "alone"), dtype="float32")
    with pytest.raises(PipelineError, match="model: 'alone' has no tokenizer beside its weights;"):
        fetch_model(params, tmp_path / "model")
    assert not (tmp_path / "model").exists()
