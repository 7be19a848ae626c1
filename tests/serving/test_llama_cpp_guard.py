"""No answer is given without its prefix, whoever else uses llama.cpp's server."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest import mock

import httpx2
import psutil
import pytest
from click.testing import CliRunner

from pipeline.cli.main import main
from pipeline.config import Params
from pipeline.errors import PipelineError
from pipeline.serving.llama_cpp import launching, xllamacpp_server
from pipeline.serving.llama_cpp.asked import AskedChat
from pipeline.serving.llama_cpp.launching import running, started
from pipeline.serving.llama_cpp.proxy import Proxy
from pipeline.serving.llama_cpp.server import LlamaServer
from pipeline.serving.llama_cpp.serving import prepare
from pipeline.serving.llama_cpp.slots import ServedPrefix
from pipeline.serving.protocol.requests import Message
from tests.served import until
from tests.serving.llama_cpp_project import (
    LONG,
    OPTIONS,
    QUESTIONS,
    SHORT,
    ask,
    asked_of,
    lines_of,
    listening,
    text_of,
)

pytest.importorskip("xllamacpp", reason="llama.cpp's server is the extra llama_cpp")


def stealing(proxy: Proxy, times: int) -> AbstractContextManager[Any]:
    """Another client takes the slot right after its prefix was restored, so many times."""
    slots = proxy.slots
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
    prompt = [*prefix.placeholders, *proxy._prompts.of_turns(asked.turns, False)]
    body = {"prompt": prompt, "n_predict": 12, "temperature": 0, "id_slot": 0}
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
    for _ in range(2 * OPTIONS["slots"]):
        with httpx2.stream(
            "POST", f"{url}/v1/chat/completions", json={**body, "max_tokens": 200}
        ) as response:
            next(response.iter_lines())
    assert text_of(ask(url, SHORT, QUESTIONS[0]))


async def _one_answer_a_connection(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """An engine that tires of a connection just when its next request has come."""
    head = await reader.readuntil(b"\r\n\r\n")
    size = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
    await reader.readexactly(int(size.split(b":")[1]))
    chunk = {"content": "a", "tokens": [5], "timings": {"cache_n": 1}, "stop": True}
    body = f"data: {json.dumps(chunk)}\n\n" if b"/completion" in head else "{}"
    told = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: keep-alive\r\n\r\n"
    writer.write((told + body).encode())
    await writer.drain()
    await reader.read(1)
    writer.close()


def test_no_request_is_lost_with_a_connection_that_the_engine_closes(proxy: Proxy) -> None:
    prefix = ServedPrefix("one", state="one", placeholders=(7,))

    async def answers() -> list[str]:
        engine = await asyncio.start_server(_one_answer_a_connection, "127.0.0.1", 0)
        port = engine.sockets[0].getsockname()[1]
        prompts: Any = proxy._prompts
        mine = Proxy(f"http://127.0.0.1:{port}", 1, 64, {}, prompts, 8, 8)
        async with engine, mine._client:
            asked = [mine.slots.answer(prefix, [5], {}) for _ in range(3)]
            return [chunk["content"] for each in asked async for chunk in each]

    assert asyncio.run(answers()) == ["a"] * 3


def test_a_signal_ends_the_command_and_its_engine(llama_cpp_project: Params) -> None:
    before = set(psutil.Process().children())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found: dict[str, Any] = {}

    def client() -> None:
        while not found:
            time.sleep(0.05)
            with contextlib.suppress(httpx2.ConnectError):
                found.update(ask(f"http://127.0.0.1:{port}", "mine", QUESTIONS[0]))
        found["engines"] = set(psutil.Process().children()) - before
        os.kill(os.getpid(), signal.SIGTERM)

    asking = threading.Thread(target=client, daemon=True)
    asking.start()
    arguments = ["serve", "--engine", "llama.cpp", "--prefix", f"mine={LONG}", "--port", str(port)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    asking.join()
    assert found["status"] == 200
    assert f", mine at http://127.0.0.1:{port}/v1; Ctrl-C ends it" in result.stderr
    assert len(found["engines"]) == 1
    assert not any(engine.is_running() for engine in found["engines"])
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_server_that_keeps_prompts_takes_none_for_a_restored_prefix(
    llama_cpp_project: Params, url: str
) -> None:
    question = "a" * 60
    expected = text_of(ask(url, SHORT, question))
    # As llama-server does by default.
    with (
        mock.patch.object(launching, "_PROMPTS_KEPT", 64),
        running(llama_cpp_project) as server,
    ):
        proxy = prepare(asked_of(llama_cpp_project, SHORT), server, print)
        asked = AskedChat(model=SHORT, messages=[Message(role="user", content=question)])
        # Another client lets the placeholders be read as words, and both prompts be kept.
        words = [*proxy._prefixes[SHORT].placeholders, *proxy._prompts.of_turns(asked.turns, False)]
        for prompt in (words, [40] * 60):
            body = {"prompt": prompt, "id_slot": 0, "n_predict": 1}
            assert httpx2.post(f"{server.url}/completion", json=body).is_success
        with listening(proxy) as address:
            assert [text_of(ask(address, SHORT, question)) for _ in range(3)] == [expected] * 3
            assert proxy.slots.mended == 0


@contextlib.contextmanager
def held_up(proxy: Proxy) -> Iterator[None]:
    """Whoever gets a slot goes no further."""
    go_on, prepare = threading.Event(), proxy.slots._prepare

    async def waiting(slot: int, prefix: ServedPrefix) -> None:
        while not go_on.is_set():
            await asyncio.sleep(0.01)
        await prepare(slot, prefix)

    with mock.patch.object(proxy.slots, "_prepare", waiting):
        try:
            yield
        finally:
            go_on.set()


def test_more_than_may_wait_is_refused(llama_cpp_project: Params, server: LlamaServer) -> None:
    proxy = prepare(asked_of(llama_cpp_project, SHORT), server, print)
    proxy.slots.max_waiting = 2
    with listening(proxy) as address, ThreadPoolExecutor(4) as pool:
        with held_up(proxy):
            asking = [pool.submit(ask, address, SHORT, question) for question in QUESTIONS[:4]]
            until(lambda: proxy.slots.waiting == 2)
            refused = ask(address, SHORT, QUESTIONS[4])
            assert refused["status"] == 429
            assert refused["error"]["code"] == "rate_limit_exceeded"
        assert [each.result()["status"] for each in asking] == [200] * 4
        assert ask(address, SHORT, QUESTIONS[4])["status"] == 200


def test_a_client_that_has_gone_ends_the_work_on_its_whole_answer(
    llama_cpp_project: Params, server: LlamaServer
) -> None:
    proxy = prepare(asked_of(llama_cpp_project, SHORT), server, print)
    ended = threading.Event()

    async def endless(*_: Any) -> AsyncGenerator[dict[str, Any], None]:
        try:
            while True:
                yield {"content": "a", "tokens": [5]}
                await asyncio.sleep(0.01)
        finally:
            ended.set()

    with listening(proxy) as address:

        def go_away() -> None:
            with pytest.raises(httpx2.ReadTimeout):
                ask(address, SHORT, QUESTIONS[0], timeout=0.5)

        with mock.patch.object(proxy.slots, "answer", endless):
            go_away()
            assert ended.wait(60)
        # Before its slot's prefix is there, and while it waits for a slot.
        with held_up(proxy), ThreadPoolExecutor(3) as pool:
            for each in [pool.submit(go_away) for _ in range(3)]:
                each.result()
            until(lambda: proxy.slots.running == proxy.slots.waiting == 0)
        text = httpx2.get(f"{address}/metrics").text
        assert f'serve_requests_total{{model="{SHORT}",status="gone"}} 4.0' in text
        assert text_of(ask(address, SHORT, QUESTIONS[0]))


def test_a_long_input_holds_up_no_other(llama_cpp_project: Params, server: LlamaServer) -> None:
    proxy = prepare(asked_of(llama_cpp_project, SHORT), server, print)
    tokens_of, begun, go_on = proxy._prompts.of_turns, threading.Event(), threading.Event()

    def slow(*given: Any) -> list[int]:
        begun.set()
        assert go_on.wait(60)
        return tokens_of(*given)

    with (
        listening(proxy) as address,
        ThreadPoolExecutor(1) as pool,
        mock.patch.object(proxy._prompts, "of_turns", slow),
    ):
        asking = pool.submit(ask, address, SHORT, QUESTIONS[0])
        try:
            assert begun.wait(60)
            assert httpx2.get(f"{address}/health", timeout=30).is_success
        finally:
            go_on.set()
        assert asking.result()["status"] == 200


def test_models_by_name_and_metrics(llama_cpp_project: Params, server: LlamaServer) -> None:
    proxy = prepare(asked_of(llama_cpp_project, SHORT), server, print)
    with listening(proxy) as address:
        assert httpx2.get(f"{address}/v1/models/{SHORT}").json()["id"] == SHORT
        missing = httpx2.get(f"{address}/v1/models/len9")
        assert missing.status_code == 404
        assert missing.json()["error"]["code"] == "model_not_found"
        answer = ask(address, SHORT, QUESTIONS[0])
        text = httpx2.get(f"{address}/metrics").text
        usage = answer["usage"]
        for line in (
            f'serve_requests_total{{model="{SHORT}",status="200"}} 1.0',
            f"serve_prompt_tokens_total {usage['prompt_tokens']}.0",
            "serve_request_seconds_count 1.0",
            "serve_first_text_seconds_count 1.0",
            "serve_running 0.0",
            "serve_waiting 0.0",
            "serve_mended_total 0.0",
        ):
            assert line in text.splitlines()


def test_a_llama_server_is_started_by_its_path(
    llama_cpp_project: Params, tmp_path: Path, url: str
) -> None:
    """A stand-in for the binary: a program of another name, which takes its options."""
    program = tmp_path / "llama-server"
    script = Path(xllamacpp_server.__file__)
    told = f'echo "$@" > {tmp_path}/told'
    program.write_text(f'#!/bin/sh\n{told}\nexec {sys.executable} -P {script} "$@"\n')
    program.chmod(0o755)
    options = llama_cpp_project.serving.llama_cpp.model_copy(update={"server": str(program)})
    serving = llama_cpp_project.serving.model_copy(update={"llama_cpp": options})
    params = llama_cpp_project.model_copy(update={"serving": serving})
    with running(params) as server:
        assert "--slot-save-path" in (tmp_path / "told").read_text()
        proxy = prepare(asked_of(params, SHORT), server, print)
        with listening(proxy) as address:
            answers = [ask(each, SHORT, QUESTIONS[0]) for each in (address, url)]
    assert text_of(answers[0]) == text_of(answers[1])
    missing = options.model_copy(update={"server": str(tmp_path / "nowhere")})
    with (
        pytest.raises(PipelineError, match="nowhere is no program; name a llama-server, or the"),
        started(Path("model.gguf"), missing),
    ):
        pass
