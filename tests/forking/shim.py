"""Stands for `python` on PATH: the fork server starts the module, this process is its face.

Arguments: the server's socket, the real interpreter, and then what `python` was called with. The
face has the process number that the caller knows: it passes signals on, and ends as the child
does. When it is killed the server kills the child.
"""

import contextlib
import json
import os
import resource
import signal
import socket
import sys

PASSED_ON = (
    *(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT),
)


def main(address: str, python: str, *arguments: str) -> None:
    # A signal that comes before the child is known waits until it is.
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    if not _is_forked(arguments) or not (child := _ask(address, arguments)):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
        os.execv(python, [python, *arguments])
    number, answers = child

    def pass_on(received: int, _: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, received)

    for passed in PASSED_ON:
        if signal.getsignal(passed) != signal.SIG_IGN:
            signal.signal(passed, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    _end_as(int(answers.readline() or _server_is_gone()))


def _is_forked(arguments: tuple[str, ...]) -> bool:
    """Whether a module or a line of code is to be run, isolated or not; other options are not."""
    how = arguments[1:3] if arguments[:1] == ("-I",) else arguments[:2]
    return len(how) == 2 and how[0] in ("-m", "-c")


def _ask(address: str, arguments: tuple[str, ...]) -> "tuple[int, socket.SocketIO] | None":
    """The child's number and the stream of what follows; None for a real interpreter's work.

    That is also where a server is gone: the tests get slower, and stay right.
    """
    request = {
        "arguments": arguments,
        "folder": os.getcwd(),  # noqa: PTH109  # pathlib would take a third of the start
        "environment": dict(os.environ),
        "ignored": [int(s) for s in PASSED_ON if signal.getsignal(s) == signal.SIG_IGN],
    }
    content = json.dumps(request).encode() + b"\n"
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(address)
        sent = socket.send_fds(connection, [content], [0, 1, 2])
        # Not nothing: by now the server may have answered and closed.
        if rest := content[sent:]:
            connection.sendall(rest)
    except OSError:
        # Nothing was started by a server that did not take the whole request.
        return None
    answers = socket.SocketIO(connection, "r")
    number = int(answers.readline() or _server_is_gone())
    return (number, answers) if number else None


def _server_is_gone() -> str:
    sys.exit("the fork server of the tests is gone; REAL_PYTHON=1 does without it")


def _end_as(status: int) -> None:
    """End with the exit code or by the signal that `os.waitpid` told of."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.WEXITSTATUS(status))


if __name__ == "__main__":
    main(*sys.argv[1:])
