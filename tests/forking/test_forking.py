"""A forked start behaves as an interpreter's or DVC's: streams, environment, exit code, signals."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests import forking
from tests.conftest import REAL

COMMANDS = forking.commands()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(COMMANDS is None, reason="only real interpreters are started"),
]

PROGRAMS = {
    "what it is given": """
        import json, os, sys
        print(json.dumps([sys.argv[1:], sys.argv[0].endswith("given/__main__.py"), __name__,
            os.getcwd(), sys.path[0], sys.path[1], sys.stdin.read(), os.environ["COLOUR"],
            os.environ.get("ABSENT"), sys.stdout.line_buffering, sys.executable, sys.orig_argv[1:],
            __import__("torch").get_num_threads()]))
        print("warned", file=sys.stderr)
    """,
    "its own copy of a package": "import given.part; print(given.part.__file__)",
    "an exit code": "import sys; sys.exit(7)",
    "an exit with a sentence": "import sys; sys.exit('error: no')",
    "an exit code above a byte": "import sys; sys.exit(259)",
    "an exit at the end": "import atexit; atexit.register(print, 'last'); print('first')",
    "a thread that goes on": """
        import threading, time
        threading.Thread(target=lambda: (time.sleep(0.3), print("late"))).start()
    """,
    "an error": "1 / 0",
    "a stop": "raise KeyboardInterrupt",
    "a signal to itself": "import os; os.kill(os.getpid(), 11)",
    "a termination of itself": "import os; os.kill(os.getpid(), 15)",
    "an end at once": "import os; print('lost'); os._exit(3)",
}


def write(folder: Path, program: str) -> None:
    package = folder / "given"
    package.mkdir()
    for name in ("__init__.py", "part.py"):
        (package / name).touch()
    lines = program.splitlines()
    indent = min((len(s) - len(s.lstrip()) for s in lines if s.strip()), default=0)
    (package / "__main__.py").write_text("\n".join(line[indent:] for line in lines))


def start(folder: Path, commands: Path | None, **options: Any) -> "subprocess.Popen[str]":
    environment = {
        **os.environ,
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(folder / "more"),
        "COLOUR": "blue\n\udcff",
    }
    return subprocess.Popen(
        ["python", "-m", "given", "an", "argument with spaces", ""],
        **{"cwd": folder, "env": environment, "text": True, **options},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_ends_as_an_interpreter_does(tmp_path: Path, name: str) -> None:
    write(tmp_path, PROGRAMS[name])
    outcomes = []
    for commands in (COMMANDS, REAL):
        process = start(tmp_path, commands)
        output, errors = process.communicate("typed")
        outcomes.append((process.returncode, output, errors.splitlines()[-1:]))
    assert outcomes[0] == outcomes[1]


LINES = {
    "code": (
        "-c",
        "import sys; print(sys.argv, __name__, sys.path[0] == ''); sys.exit(4)",
        "an",
        "",
    ),
    "code on its own": (
        *("-I", "-c", "import sys; print(sys.argv, '' in sys.path, 'more' in str(sys.path))", "x"),
    ),
    "code that fails": ("-c", "def f(): 1 / 0\nf()"),
}


@pytest.mark.parametrize("name", LINES)
def test_a_line_of_code_ends_as_an_interpreter_s(tmp_path: Path, name: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path / "more")}
    ended = []
    for commands in (COMMANDS, REAL):
        done = subprocess.run(
            [f"{commands}/python", *LINES[name]],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        ended.append((done.returncode, done.stdout, done.stderr.splitlines()[-1:]))
    assert ended[0] == ended[1]


def test_dvc_is_a_fork_too(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1"}
    for command in (("init", "--no-scm"), ("stage", "list"), ("repro",), ("no-such-command",)):
        ended: list[tuple[int, str, str]] = []
        for commands in (COMMANDS, REAL):
            folder = tmp_path / str(len(ended))
            folder.mkdir(exist_ok=True)
            done = subprocess.run(
                [f"{commands}/dvc", *command],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
            )
            ended.append((done.returncode, done.stdout, done.stderr.replace(str(folder), "")))
        assert ended[0] == ended[1]


def test_it_is_a_fork(tmp_path: Path) -> None:
    write(tmp_path, "import sys; print('torch' in sys.modules, 'pipeline' in sys.modules)")
    assert start(tmp_path, COMMANDS).communicate()[0] == "True False\n"
    # What libraries read while they are imported is left to an interpreter.
    environment = {**os.environ, "PATH": f"{COMMANDS}:{os.environ['PATH']}", "OMP_NUM_THREADS": "2"}
    for _ in range(10):
        assert start(tmp_path, COMMANDS, env=environment).communicate()[0] == "False False\n"


WAITING = """
    import os, signal, sys, time
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
    inner = os.fork() or os.execvp("sleep", ["sleep", "60"])
    print(os.getpid(), inner, flush=True)
    time.sleep(60)
"""


def is_running(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{number}/stat").read_text().rpartition(")")[2][:3]


@pytest.mark.parametrize(
    ("sent", "code"),
    [(signal.SIGTERM, 5), (signal.SIGINT, -signal.SIGINT), (signal.SIGUSR1, -signal.SIGUSR1)],
)
def test_a_signal_reaches_it(tmp_path: Path, sent: signal.Signals, code: int) -> None:
    write(tmp_path, WAITING)
    process = start(tmp_path, COMMANDS)
    assert process.stdout is not None
    _, inner = map(int, process.stdout.readline().split())
    process.send_signal(sent)
    assert process.wait(10) == code
    os.kill(inner, signal.SIGKILL)


def test_ignored_stays_ignored(tmp_path: Path) -> None:
    write(tmp_path, "import os; os.kill(os.getpid(), 2); print('goes on')")
    ignore = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)}
    assert start(tmp_path, COMMANDS, **ignore).communicate()[0] == "goes on\n"


def test_a_killed_group_is_gone(tmp_path: Path) -> None:
    write(tmp_path, WAITING)
    process = start(tmp_path, COMMANDS, start_new_session=True)
    assert process.stdout is not None
    numbers = [int(number) for number in process.stdout.readline().split()]
    assert all(map(is_running, numbers))
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL
    for _ in range(100):
        if not any(map(is_running, numbers)):
            break
        time.sleep(0.02)
    assert not any(map(is_running, numbers))


def test_the_server_ends_with_the_tests(tmp_path: Path) -> None:
    write(tmp_path, WAITING)
    code = (
        "import os, subprocess, sys\n"
        "from tests import forking\n"
        "print(forking.commands(), flush=True)\n"
        "path = f'{forking.commands()}:{os.environ[\"PATH\"]}'\n"
        "subprocess.Popen(['python', '-m', 'given'], cwd=sys.argv[1], env=os.environ | "
        "{'PATH': path, 'OMP_NUM_THREADS': '1'}).wait()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    commands = process.stdout.readline().strip()
    numbers = [int(number) for number in process.stdout.readline().split()]
    process.kill()
    process.wait()
    shutil.rmtree(commands)
    for _ in range(100):
        if not any(map(is_running, numbers)):
            break
        time.sleep(0.02)
    assert not any(map(is_running, numbers))
