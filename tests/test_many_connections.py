"""Ten thousand connections: the server answers, or refuses in OpenAI's form, and nothing leaks."""

import gc
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from pipeline.inference.decoding import Decoding
from pipeline.serving.protocol import guard
from pipeline.serving.protocol.connections import BoundedProtocol, allowed_connections
from tests.served import Served, served, tiny_models, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows bounds no open files"),
]

HOLDING = Path(__file__).with_name("holding_connections.py")
SPARE = 100  # connections for those who ask meanwhile


@contextmanager
def held(
    running: Served, idle: int = 0, heads: int = 0, bodies: int = 0
) -> "Iterator[subprocess.Popen[str]]":
    """So many connections of another process, until the end."""
    port = running.url.rpartition(":")[2]
    process = subprocess.Popen(
        [sys.executable, "-S", str(HOLDING), port, *map(str, (idle, heads, bodies))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "open\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def states(process: "subprocess.Popen[str]") -> dict[str, int]:
    """How many of the held connections wait, were closed, or were told which status."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return dict(json.loads(process.stdout.readline()))


def answers_rightly(running: Served, expected: str) -> None:
    turns: Any = [{"role": "user", "content": "size: 3 km"}]
    with running.client() as client:
        reply = client.chat.completions.create(model="five", messages=turns, max_tokens=6)
    assert (reply.choices[0].message.content or "").strip() == expected


def right_answer(running: Served) -> str:
    return running.alone("five", "size: 3 km", Decoding(6))


def test_ten_thousand_connections_hold_up_nobody_and_leave_nothing() -> None:
    count = min(10_000, allowed_connections(10_000 + SPARE) - SPARE)
    if count < 500:
        pytest.skip(f"a process may open so few files here that {count} connections are left")
    here = psutil.Process()
    with served(tiny_models(), patience=300, max_connections=count + SPARE) as running:
        expected = right_answer(running)
        answers_rightly(running, expected)
        until(lambda: running.connections == 0)
        files, memory = here.num_fds(), here.memory_info().rss
        quarter = count // 4
        with held(running, idle=2 * quarter, heads=quarter, bodies=quarter) as others:
            until(lambda: running.connections == 4 * quarter)
            each = (here.memory_info().rss - memory) / (4 * quarter)
            print(f"\n{4 * quarter} connections, {each / 1024:.1f} KiB each")
            assert each < 64 * 1024
            answers_rightly(running, expected)
            assert states(others) == {"waits": 4 * quarter}
        answers_rightly(running, expected)
        until(lambda: running.connections == 0 and not running.server.server_state.tasks)
        until(lambda: here.num_fds() <= files)
        gc.collect()
        assert not [each for each in gc.get_objects() if type(each) is BoundedProtocol]
        assert running.scheduler.running == running.scheduler.waiting == 0


def test_what_goes_beyond_the_bound_takes_the_place_of_who_says_nothing() -> None:
    here = psutil.Process()
    with served(tiny_models(), patience=300, max_connections=64) as running:
        expected = right_answer(running)
        files = here.num_fds()
        with held(running, idle=500, heads=500) as others:
            answers_rightly(running, expected)
            assert running.connections <= 64
            assert here.num_fds() <= files + 64 + 8  # pipes to the process that holds them
            found = states(others)
            assert found["503"] + found["waits"] == 1000
            assert 50 < found["waits"] <= 64
        answers_rightly(running, expected)


def test_requests_beyond_the_bound_are_refused_in_openai_s_form() -> None:
    with served(tiny_models(), patience=300, max_connections=64) as running:
        expected = right_answer(running)
        with held(running, bodies=1000) as others:
            reply = httpx2.get(f"{running.url}/v1/models", timeout=60)
            assert reply.status_code == 503
            assert reply.json()["error"]["code"] == "too_many_connections"
            assert reply.headers["retry-after"] == "1"
            # One of sixteen is for refusals; those of the last may be on their way.
            until(lambda: states(others) == {"waits": 60, "503": 940})
            assert running.connections <= 64
        until(lambda: running.connections == 0)
        answers_rightly(running, expected)


def test_a_connection_without_a_request_is_ended_in_time() -> None:
    with served(tiny_models(), patience=0.5) as running:
        address = ("127.0.0.1", int(running.url.rpartition(":")[2]))
        told = {}
        for sent in (b"", b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n", b"no HTTP\r\n\r\n"):
            with socket.create_connection(address, timeout=60) as connection:
                connection.sendall(sent)
                told[sent[:4]] = b"".join(iter(lambda: connection.recv(4096), b""))
        assert told[b""] == b""
        for begin, status in ((b"POST", b"408"), (b"no H", b"400")):
            head, _, body = told[begin].partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 " + status)
            assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
        # Whoever sends a head byte by byte has no longer.
        began = time.monotonic()
        with socket.create_connection(address, timeout=60) as connection:
            connection.settimeout(0.1)
            told_late = b""
            while not told_late and time.monotonic() < began + 60:
                try:
                    connection.sendall(b"G")
                    told_late = connection.recv(4096)
                except TimeoutError:
                    continue
        assert told_late.startswith(b"HTTP/1.1 408")
        until(lambda: running.connections == 0)


@pytest.mark.skipif(sys.platform != "linux", reason="bounded by an option of Linux")
def test_a_connection_that_reads_no_answer_is_ended_in_time() -> None:
    with served(tiny_models(), patience=1) as running:
        address = ("127.0.0.1", int(running.url.rpartition(":")[2]))
        with socket.create_connection(address, timeout=60) as connection:
            # Answers larger together than all buffers on the way.
            connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)
            until(lambda: running.connections == 1)
            until(lambda: running.connections == 0)
        until(lambda: not running.server.server_state.tasks)
        answers_rightly(running, right_answer(running))


def test_half_sent_bodies_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_MOST_HELD", 20_000)
    with served(tiny_models(), patience=300) as running:
        expected = right_answer(running)
        address = ("127.0.0.1", int(running.url.rpartition(":")[2]))
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n"
        held_open = [socket.create_connection(address, timeout=60) for _ in range(3)]
        for connection in held_open:
            connection.sendall(head + b"x" * 8000)
        # Two have room, and whichever came last is told so.
        while not (ready := [c for c in held_open if _has_answer(c)]):
            time.sleep(0.01)
        assert len(ready) == 1
        assert ready[0].recv(4096).startswith(b"HTTP/1.1 429")
        for connection in held_open:
            connection.close()
        until(lambda: running.connections == 0)
        answers_rightly(running, expected)


def _has_answer(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False
