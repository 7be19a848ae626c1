"""Bad requests of every kind get an error in OpenAI's form, and the next request its answer."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import schemathesis
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings

from pipeline.cli.main import main
from pipeline.serving.access import refuse_open_door
from tests.served import Served, served, tiny_models, until

pytestmark = pytest.mark.slow

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
TURNS = [{"role": "user", "content": "x"}]


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    # Little room: whatever length a request names, it is refused or soon done.
    with served(tiny_models(max_context=110), patience=1.0) as running:
        yield running


@pytest.fixture(scope="module")
def http(server: Served) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server.url, timeout=30) as client:
        yield client


def is_told(reply: httpx2.Response) -> dict[str, Any]:
    """The error of a reply in OpenAI's form."""
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    return dict(error)


BODIES: dict[str, tuple[str, Any, int, str | None]] = {
    "an unknown model": (CHAT, {"model": "nobody", "messages": TURNS}, 404, "model"),
    "half a character": (CHAT, {"model": "\ud800", "messages": TURNS}, 400, "model"),
    "half a character in a text": (TEXT, {"model": "one", "prompt": "a\udfff"}, 400, "prompt"),
    "no model": (CHAT, {"messages": TURNS}, 400, "model"),
    "no messages": (CHAT, {"model": "one"}, 400, "messages"),
    "an empty conversation": (CHAT, {"model": "one", "messages": []}, 400, "messages"),
    "a system's turn alone": (
        *(CHAT, {"model": "one", "messages": [{"role": "system", "content": "x"}]}),
        *(400, "messages"),
    ),
    "a picture": (
        CHAT,
        {"model": "one", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        *(400, "messages.0.content.0.type"),
    ),
    "an empty prompt": (TEXT, {"model": "one", "prompt": ""}, 400, "prompt"),
    "no prompts": (TEXT, {"model": "one", "prompt": []}, 400, "prompt"),
    "an unknown token": (TEXT, {"model": "one", "prompt": [5, 260]}, 400, "prompt"),
    "a negative token": (TEXT, {"model": "one", "prompt": [-1]}, 400, "prompt.0"),
    "too long a prompt": (TEXT, {"model": "one", "prompt": "x" * 200}, 400, None),
    "too long an answer": (
        *(TEXT, {"model": "one", "prompt": "x", "max_tokens": 110}),
        *(400, "max_tokens"),
    ),
    "no tokens": (TEXT, {"model": "one", "prompt": "x", "max_tokens": 0}, 400, "max_tokens"),
    "a huge number of tokens": (
        *(TEXT, {"model": "one", "prompt": "x", "max_tokens": 10**30}),
        *(400, "max_tokens"),
    ),
    "a huge n": (TEXT, {"model": "one", "prompt": "x", "n": 10**9}, 400, "n"),
    "too many answers": (TEXT, {"model": "one", "prompt": ["x"] * 60, "n": 60}, 400, "n"),
    "a word for a number": (
        *(TEXT, {"model": "one", "prompt": "x", "temperature": "hot"}),
        *(400, "temperature"),
    ),
    "a temperature below zero": (
        *(TEXT, {"model": "one", "prompt": "x", "temperature": -1}),
        *(400, "temperature"),
    ),
    "no mass": (TEXT, {"model": "one", "prompt": "x", "top_p": 0}, 400, "top_p"),
    "an empty stop": (TEXT, {"model": "one", "prompt": "x", "stop": [""]}, 400, "stop.0"),
    "an echo": (TEXT, {"model": "one", "prompt": "x", "echo": True}, 400, "echo"),
    "a penalty": (
        *(TEXT, {"model": "one", "prompt": "x", "presence_penalty": 1}),
        *(400, "presence_penalty"),
    ),
    "a huge seed": (TEXT, {"model": "one", "prompt": "x", "seed": 2**64}, 400, "seed"),
    "an unknown key": (TEXT, {"model": "one", "prompt": "x", "tools": []}, 400, "tools"),
    "a list": (TEXT, [1, 2], 400, None),
    "nothing": (TEXT, None, 400, None),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_wrong_request_is_told_what_is_wrong(http: httpx2.Client, name: str) -> None:
    path, body, status, param = BODIES[name]
    reply = http.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
    assert reply.status_code == status, reply.text
    assert is_told(reply)["param"] == param


@pytest.mark.parametrize(
    ("content", "status"),
    [
        *((b"{", 400), (b'{"model": "one", "prompt": "\xff"}', 400), (b"", 400)),
        *((b"[" * 100_000, 400), (b'{"model": "one", "prompt": "x", "top_p": NaN}', 400)),
        (b'"' + b"x" * (5 * 2**20) + b'"', 413),
    ],
)
def test_what_is_no_request_is_refused(http: httpx2.Client, content: bytes, status: int) -> None:
    reply = http.post(TEXT, content=content, headers={"content-type": "application/json"})
    assert reply.status_code == status, reply.text
    is_told(reply)


@pytest.mark.parametrize(("method", "path", "status"), [("GET", TEXT, 405), ("GET", "/v2", 404)])
def test_what_is_not_there_is_told_alike(
    http: httpx2.Client, method: str, path: str, status: int
) -> None:
    reply = http.request(method, path)
    assert reply.status_code == status
    is_told(reply)


def answers(server: Served) -> None:
    reply = server.client().completions.create(model="one", prompt="x", max_tokens=2)
    assert reply.choices[0].text


def test_slow_clients_and_many_connections_hold_up_nobody(server: Served) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    idle = [socket.create_connection((host, int(port))) for _ in range(100)]
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{"
    for connection in idle[:50]:
        connection.sendall(head)
    answers(server)
    # A body that does not come is waited for no longer than the server's patience.
    idle[0].settimeout(60)
    told = b""
    while b"}" not in told and (more := idle[0].recv(4096)):
        told += more
    assert told.startswith(b"HTTP/1.1 408")
    assert b'"error"' in told
    for connection in idle:
        connection.close()
    answers(server)
    until(lambda: server.scheduler.running == server.scheduler.waiting == 0)


def test_whatever_the_schema_lets_pass_is_answered_or_refused(server: Served) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")

    @given(case=schema.as_strategy())
    @settings(
        max_examples=50,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    def check(case: schemathesis.Case) -> None:
        reply = case.call()
        assert reply.status_code < 500 or reply.status_code == 501, reply.text
        if reply.status_code >= 400:
            assert set(reply.json()["error"]) == {"message", "type", "param", "code"}

    check()
    until(lambda: server.scheduler.running == server.scheduler.waiting == 0)
    answers(server)


def test_a_key_is_asked_of_everyone_where_there_is_one() -> None:
    with served(tiny_models(), api_key="sécret") as running:
        assert httpx2.get(f"{running.url}/health").status_code == 200
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "sécret"}):
            raw = {key.encode(): value.encode() for key, value in headers.items()}
            reply = httpx2.get(f"{running.url}/v1/models", headers=raw)
            assert reply.status_code == 401
            assert is_told(reply)["code"] == "invalid_api_key"
        good = {b"Authorization": "Bearer sécret".encode()}
        assert httpx2.get(f"{running.url}/v1/models", headers=good).status_code == 200
        with pytest.raises(openai.AuthenticationError):
            running.client().models.list()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.0.2"])
def test_this_machine_needs_no_key(host: str) -> None:
    refuse_open_door(host, None)
    refuse_open_door("0.0.0.0", "secret")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--host", "0.0.0.0"), "set SERVE_API_KEY to a secret"),
        (("--host", "example.org"), "set SERVE_API_KEY to a secret"),
        ((), "no variant of params.yaml is trained yet"),
        (("--prefix", "len4"), "'len4' is no NAME=PATH"),
        (("--prefix", "a=nowhere.safetensors"), "there is no prefix there"),
        (("--prefix", "a=len2-random-seed9"), "is no variant of params.yaml"),
        (("--engine", "magic"), "'magic' is not"),
    ],
)
def test_what_cannot_be_served_is_told_in_a_sentence(
    tmp_path: Path,
    model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    sentence: str,
) -> None:
    from ruamel.yaml import YAML

    from tests.conftest import tiny_params

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SERVE_API_KEY", raising=False)
    with (tmp_path / "params.yaml").open("w") as file:
        YAML(typ="safe").dump(tiny_params(model_folder), file)
    result = CliRunner().invoke(main, ["serve", *arguments])
    assert result.exit_code != 0
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
