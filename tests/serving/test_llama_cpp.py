"""llama.cpp with a prefix answers as transformers does, whoever else asks the same server."""

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest import mock

import httpx2
import psutil
import pytest
import torch
from click.testing import CliRunner

from pipeline.cli.main import main
from pipeline.config import Params
from pipeline.inference.generator import Decoding, TextGenerator, generator_of
from pipeline.serving.llama_cpp import launching
from pipeline.serving.llama_cpp.asked import AskedChat, Message
from pipeline.serving.llama_cpp.launching import ServerOptions, started
from pipeline.serving.llama_cpp.proxy import Proxy
from pipeline.serving.llama_cpp.server import LlamaServer
from pipeline.serving.llama_cpp.serving import Door, prepare, serve_llama_cpp
from pipeline.serving.llama_cpp.slots import ServedPrefix
from tests.serving.llama_cpp_project import (
    LONG,
    PREFIXES,
    QUESTIONS,
    SHORT,
    listening,
)

pytest.importorskip("xllamacpp", reason="llama.cpp's server is the extra llama_cpp")

OPTIONS = ServerOptions("f32", False, 2, 256, 1)


@pytest.fixture(scope="module")
def server(llama_cpp_project: Params) -> Iterator[LlamaServer]:
    with started(Path("model.gguf"), OPTIONS) as running:
        yield running


@pytest.fixture(scope="module")
def told() -> list[str]:
    return []


@pytest.fixture(scope="module")
def proxy(llama_cpp_project: Params, server: LlamaServer, told: list[str]) -> Proxy:
    return prepare(llama_cpp_project, {LONG: LONG, SHORT: SHORT}, server, told.append)


@pytest.fixture(scope="module")
def url(proxy: Proxy) -> Iterator[str]:
    with listening(proxy) as address:
        yield address


@pytest.fixture(scope="module")
def generators(llama_cpp_project: Params) -> dict[str, TextGenerator]:
    return {name: generator_of(llama_cpp_project, name) for name in PREFIXES}


def ask(url: str, model: str, question: str, **more: Any) -> dict[str, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": question}], **more}
    response = httpx2.post(f"{url}/v1/chat/completions", json=body, timeout=60)
    return {**response.json(), "status": response.status_code}


def text_of(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"]).strip()


def test_twelve_of_twelve_answers_are_ours_whoever_asks_at_once(
    url: str, generators: dict[str, TextGenerator]
) -> None:
    work = [(name, question) for question in QUESTIONS for name in PREFIXES]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda w: text_of(ask(url, *w)), work))
    ours = [generators[name](question, Decoding(24)) for name, question in work]
    assert answers == ours
    # The prefixes weigh, and answers are not all one.
    assert len(set(ours)) == len(ours)


def test_log_probabilities_are_ours(url: str, generators: dict[str, TextGenerator]) -> None:
    for name, generator in generators.items():
        asked = {"logprobs": True, "top_logprobs": 20, "max_completion_tokens": 12}
        found = ask(url, name, QUESTIONS[0], **asked)["choices"][0]["logprobs"]["content"]
        prompt = torch.tensor([generator._renderer.prompt_ids(QUESTIONS[0])])
        made = generator.model.generate(
            input_ids=prompt,
            max_new_tokens=12,
            output_logits=True,
            return_dict_in_generate=True,
            eos_token_id=2,
            pad_token_id=3,
            do_sample=False,
        )
        assert len(found) == 12
        for step, token in enumerate(found):
            expected = made.logits[step][0].log_softmax(-1)
            top = [each["logprob"] for each in token["top_logprobs"]]
            assert top == pytest.approx(expected.topk(20).values.tolist(), abs=1e-3)


def test_the_frozen_model_alone_is_served_beside_them(
    url: str, generators: dict[str, TextGenerator]
) -> None:
    listed = httpx2.get(f"{url}/v1/models").json()["data"]
    assert [model["id"] for model in listed] == [LONG, SHORT, "no_prefix"]
    frozen = generators[LONG].model.frozen_model
    ids = torch.tensor([generators[LONG]._renderer.prompt_ids(QUESTIONS[0])])
    made = frozen.generate(ids, max_new_tokens=8, eos_token_id=2, pad_token_id=3, do_sample=False)
    expected = generators[LONG].tokenizer.decode(made[0, ids.shape[1] :]).strip()
    assert text_of(ask(url, "no_prefix", QUESTIONS[0], max_tokens=8)) == expected


def test_a_key_is_asked_of_every_request_where_there_is_one(
    llama_cpp_project: Params, server: LlamaServer
) -> None:
    proxy = prepare(llama_cpp_project, {}, server, print, "frozen", api_key="secret")
    with listening(proxy) as address:
        for header, status in (("", 401), ("Bearer other", 401), ("Bearer secret", 200)):
            headers = {"Authorization": header} if header else {}
            body = {"model": "frozen", "prompt": "a", "max_tokens": 1}
            for path, sent in (("models", None), ("completions", body)):
                method = "GET" if sent is None else "POST"
                found = httpx2.request(method, f"{address}/v1/{path}", json=sent, headers=headers)
                assert found.status_code == status
        assert httpx2.get(f"{address}/health").is_success


def test_an_answer_goes_on_where_the_end_is_ignored(url: str) -> None:
    answer = ask(url, LONG, QUESTIONS[0], ignore_eos=True, max_tokens=40)
    assert answer["usage"]["completion_tokens"] == 40
    assert answer["choices"][0]["finish_reason"] == "length"


def test_what_was_found_is_told_in_a_sentence(url: str, told: list[str]) -> None:
    assert told[0].startswith("llama.cpp keeps keys permuted, rotary pairs side by side; of 32")
    assert "(cache f32, without flash attention, streams 2, state version 4)" in told[0]


def lines_of(response: httpx2.Response) -> list[str]:
    return [line.removeprefix("data: ") for line in response.iter_lines() if line]


def test_a_stream_says_the_same(url: str) -> None:
    whole = ask(url, LONG, QUESTIONS[1])
    body = {"model": LONG, "messages": [{"role": "user", "content": QUESTIONS[1]}]}
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    with httpx2.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        *chunks, done = lines_of(response)
    assert done == "[DONE]"
    parsed = [json.loads(chunk) for chunk in chunks]
    assert parsed[0]["choices"][0]["delta"]["role"] == "assistant"
    said = "".join(c["choices"][0]["delta"].get("content", "") for c in parsed if c["choices"])
    assert said == whole["choices"][0]["message"]["content"]
    assert parsed[-2]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert parsed[-1]["usage"] == whole["usage"]


def test_raw_completions_go_on_from_a_text_or_its_tokens(
    url: str, generators: dict[str, TextGenerator]
) -> None:
    generator = generators[SHORT]
    ids = generator.tokenizer.encode("size:", add_special_tokens=False)
    made = generator.model.generate(
        input_ids=torch.tensor([ids]),
        max_new_tokens=6,
        do_sample=False,
        eos_token_id=2,
        pad_token_id=3,
    )
    expected = generator.tokenizer.decode(made[0, len(ids) :])
    for prompt in ("size:", ids):
        body = {"model": SHORT, "prompt": prompt, "max_tokens": 6}
        answer = httpx2.post(f"{url}/v1/completions", json=body).json()
        assert answer["choices"][0]["text"] == expected
        assert answer["usage"]["prompt_tokens"] == len(ids)


REFUSED = [
    ({"model": "len9"}, 404, r"model: there is no 'len9'; it is one of len4"),
    ({"messages": []}, 400, "messages: "),
    ({"tools": [{}]}, 400, "tools: is not served here; leave it out"),
    ({"n": 2}, 400, "n: "),
    ({"presence_penalty": 0.5}, 400, "presence_penalty: "),
    ({"temperature": 3}, 400, "temperature: "),
    ({"max_tokens": 4000}, 400, "are more than a slot's 256 positions"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages"),
]


@pytest.mark.parametrize(("change", "status", "message"), REFUSED)
def test_mistakes_are_told_in_openai_s_form(
    url: str, change: dict[str, Any], status: int, message: str
) -> None:
    body = {"model": LONG, "messages": [{"role": "user", "content": "size?"}], **change}
    response = httpx2.post(f"{url}/v1/chat/completions", json=body)
    assert response.status_code == status
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert message in error["message"]


def test_an_empty_input_is_refused(url: str) -> None:
    for prompt in ([], ""):
        body = {"model": LONG, "prompt": prompt}
        response = httpx2.post(f"{url}/v1/completions", json=body)
        assert "the input is empty" in response.json()["error"]["message"]
    assert httpx2.get(f"{url}/v1/nothing").json()["error"]["code"] == "not_found"


def stealing(proxy: Proxy, times: int) -> AbstractContextManager[Any]:
    """Another client takes the slot right after its prefix was restored, so many times."""
    slots = proxy.slots
    assert slots is not None
    left, restore = [times], slots._prepare

    async def stolen(slot: int, prefix: ServedPrefix) -> None:
        await restore(slot, prefix)
        if left[0] > 0:
            left[0] -= 1
            other = {"prompt": [40, 41, 42], "id_slot": slot, "n_predict": 1}
            await slots.client.post("/completion", json=other)

    return mock.patch.object(slots, "_prepare", stolen)


def test_a_lost_prefix_is_detected_and_mended(proxy: Proxy, url: str) -> None:
    expected = text_of(ask(url, LONG, QUESTIONS[2]))
    assert proxy.slots is not None
    before = proxy.slots.mended
    with stealing(proxy, 2):
        assert text_of(ask(url, LONG, QUESTIONS[2])) == expected
    assert proxy.slots.mended == before + 2
    assert httpx2.get(f"{url}/health").json()["mended"] == before + 2
    with (
        stealing(proxy, 1),
        httpx2.stream(
            "POST",
            f"{url}/v1/chat/completions",
            json={
                "model": LONG,
                "messages": [{"role": "user", "content": QUESTIONS[2]}],
                "stream": True,
            },
        ) as response,
    ):
        chunks = [json.loads(line) for line in lines_of(response)[:-1]]
    said = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks)
    assert said.strip() == expected


def test_no_answer_is_given_without_the_prefix(proxy: Proxy, url: str) -> None:
    for stream in (False, True):
        with stealing(proxy, 100):
            refused = ask(url, LONG, QUESTIONS[2], stream=stream)
        assert refused["status"] == 503
        assert refused["error"]["code"] == "prefix_lost"
        assert "lost the prefix len4-random-seed0 3 times" in refused["error"]["message"]
    assert text_of(ask(url, LONG, QUESTIONS[2]))


def test_the_server_itself_reads_the_placeholders_of_a_lost_prefix_as_words(
    proxy: Proxy, url: str, server: LlamaServer
) -> None:
    expected = text_of(ask(url, LONG, QUESTIONS[2]))
    prefix = proxy._prefixes[LONG]
    asked = AskedChat(model=LONG, messages=[Message(role="user", content=QUESTIONS[2])])
    prompt = [*prefix.placeholders, *proxy._prompts.tokens(asked, False)]
    body = {"prompt": prompt, "n_predict": 24, "temperature": 0, "id_slot": 0}
    answers = []
    for stolen in (False, True):
        restore = {"filename": prefix.state}
        assert httpx2.post(f"{server.url}/slots/0?action=restore", json=restore).is_success
        if stolen:
            other = {"prompt": [40, 41, 42], "id_slot": 0, "n_predict": 1}
            httpx2.post(f"{server.url}/completion", json=other)
        answers.append(httpx2.post(f"{server.url}/completion", json=body).json())
    kept, lost = answers
    assert (kept["content"].strip(), kept["timings"]["cache_n"]) == (expected, 4)
    # It says nothing of the loss, and answers something else.
    assert lost["content"].strip() != expected
    assert lost["timings"]["cache_n"] == 0


def test_a_client_that_leaves_frees_its_slot(url: str) -> None:
    body = {"model": LONG, "messages": [{"role": "user", "content": "a"}], "stream": True}
    for _ in range(2 * OPTIONS.slots):
        with httpx2.stream(
            "POST", f"{url}/v1/chat/completions", json={**body, "max_tokens": 200}
        ) as response:
            next(response.iter_lines())
    assert text_of(ask(url, SHORT, QUESTIONS[0]))


def test_a_signal_ends_the_server_and_its_engine(llama_cpp_project: Params) -> None:
    before = set(psutil.Process().children())
    told: list[str] = []
    found: dict[str, Any] = {}

    def client() -> None:
        while not (told and told[-1].startswith("serving at ")):
            time.sleep(0.05)
        url = told[-1].removeprefix("serving at ").removesuffix("/v1")
        while not found:
            with contextlib.suppress(httpx2.ConnectError):
                found.update(ask(url, "no_prefix", "a"))
        found["engines"] = set(psutil.Process().children()) - before
        os.kill(os.getpid(), signal.SIGTERM)

    asking = threading.Thread(target=client)
    asking.start()
    with pytest.raises(KeyboardInterrupt):
        serve_llama_cpp(
            llama_cpp_project, {}, Path("model.gguf"), OPTIONS, told.append, Door(port=0)
        )
    asking.join()
    assert found["status"] == 200
    assert len(found["engines"]) == 1
    assert not any(engine.is_running() for engine in found["engines"])
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_options_of_an_engine_that_runs_are_refused() -> None:
    arguments = ["serve-llama-cpp", "--server", "http://127.0.0.1:1", "--state-folder", "."]
    for more, reason in (
        (["--cache-type", "f32"], "--server has its own cache-type"),
        (["--gguf", "model.gguf"], "give either --gguf or --server"),
    ):
        result = CliRunner().invoke(main, [*arguments, *more])
        assert result.exit_code == 2
        assert reason in result.output


def test_a_server_that_keeps_prompts_takes_none_for_a_restored_prefix(
    llama_cpp_project: Params, url: str
) -> None:
    question = "a" * 60
    expected = text_of(ask(url, SHORT, question))
    # As llama-server does by default.
    with (
        mock.patch.object(launching, "_PROMPTS_KEPT", 64),
        started(Path("model.gguf"), OPTIONS) as server,
    ):
        proxy = prepare(llama_cpp_project, {SHORT: SHORT}, server, print)
        asked = AskedChat(model=SHORT, messages=[Message(role="user", content=question)])
        # Another client lets the placeholders be read as words, and both prompts be kept.
        words = [*proxy._prefixes[SHORT].placeholders, *proxy._prompts.tokens(asked, False)]
        for prompt in (words, [40] * 60):
            body = {"prompt": prompt, "id_slot": 0, "n_predict": 1}
            assert httpx2.post(f"{server.url}/completion", json=body).is_success
        with listening(proxy) as address:
            assert [text_of(ask(address, SHORT, question)) for _ in range(3)] == [expected] * 3
        assert proxy.slots is not None
        assert proxy.slots.mended == 0
