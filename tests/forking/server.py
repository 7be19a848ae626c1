"""Imports the libraries of a command once, and forks a child for every start.

Runs as a script with two arguments, the descriptor of a listening socket and a command (`python`,
which is for stages, or `dvc`), until its standard input closes. It imports nothing of `pipeline`,
so that a child imports that from its own working folder, and it computes nothing: neither torch's
autograd nor a pool of threads outlives a fork.
What children share, unlike real interpreters, is the seed of `hash` and the addresses of what is
imported here.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import types
from dataclasses import dataclass
from pathlib import Path

LIBRARIES = {
    "python": (
        *("torch", "torch._dynamo", "torch.profiler._cupti_monitor", "transformers", "accelerate"),
        *("transformers.generation.streamers", "transformers.models.llama.modeling_llama"),
        *("transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto"),
        *("mlflow", "mlflow.pyfunc", "mlflow.store.tracking.sqlalchemy_store"),
        *("mlflow.store.model_registry.sqlalchemy_store", "datasets", "pandas", "scipy.stats"),
        *("altair", "git", "nltk", "rouge_score.rouge_scorer", "sacrebleu", "gguf"),
        *("click", "jinja2", "pydantic", "psutil", "ruamel.yaml", "tabulate"),
        # What MLflow and pandas import when they are first asked for something.
        *("IPython", "alembic.command", "sqlalchemy.dialects.sqlite", "logging.handlers"),
        *("mlflow.models.display_utils", "mlflow.store.tracking.sqlalchemy_workspace_store"),
        *("mlflow.store.model_registry.sqlalchemy_workspace_store", "pandas.io.formats.csvs"),
        *("pandas.core.methods.to_dict", "pandas.core.reshape.reshape", "click_didyoumean"),
    ),
    "dvc": (
        *("dvc.cli.parser", "dvc.repo.reproduce", "dvc.repo.status", "dvc.repo.commit"),
        *("dvc.dvcfile", "dvc.stage.loader", "dvc.stage.cache", "dvc.stage.run", "dvc.parsing"),
        *("dvc.utils.strictyaml", "dvc.analytics", "dvc.fs.dvc", "dvc.compare", "dvc_http"),
        *("dvc_data.index", "dvc_data.hashfile.checkout", "dvc_data.hashfile.transfer"),
        *("dulwich.repo", "dulwich.worktree", "scmrepo.git", "sqltrie.sqlite.sqlite", "diskcache"),
        *("ruamel.yaml", "psutil", "orjson", "flufl.lock", "zc.lockfile"),
    ),
}
# Libraries read these while they are imported or loaded; a child does as `FOLLOWED` say.
READ_EARLY = (
    *("PYTHON", "OMP_", "MKL_", "OPENBLAS_", "KMP_", "LD_", "MALLOC_", "CUDA_"),
    *("TORCH", "TRANSFORMERS_", "HF_", "MPL"),
)
FOLLOWED = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")


@dataclass
class Request:
    """A start of `python -m` or `python -c`, as the shim sends it."""

    arguments: list[str]
    folder: str
    environment: dict[str, str]
    ignored: list[int]

    @property
    def is_isolated(self) -> bool:
        """Whether neither the working folder nor PYTHONPATH is on the path."""
        return self.arguments[0] == "-I"

    @property
    def started(self) -> list[str]:
        """`-m` or `-c`, the module or the code, and the arguments after it."""
        return self.arguments[1:] if self.is_isolated else self.arguments

    def early(self) -> dict[str, str]:
        return _read_early(self.environment)


def _read_early(environment: "dict[str, str] | os._Environ[str]") -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(READ_EARLY) and name not in FOLLOWED
    }


class Server:
    """The children, and the connections of those who asked for them."""

    def __init__(self, listener: socket.socket) -> None:
        self.early = _read_early(os.environ)
        self.listener = listener
        self.connections: dict[int, socket.socket] = {}

    def serve(self) -> Request | None:
        """Answer until standard input closes; returns a request in each child, None at the end."""
        ended, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.selector = selectors.DefaultSelector()
        for source in (0, ended, self.listener):
            self.selector.register(source, selectors.EVENT_READ)
        while True:
            # Those who asked and are gone come first: what they started dies before new starts.
            ready = [key for key, _ in self.selector.select()]
            for number in [key.data for key in ready if key.data is not None]:
                self.kill(number)
            sources = [key.fileobj for key in ready]
            if 0 in sources:
                for number in self.connections:
                    self.kill(number)
                return None
            if ended in sources:
                os.read(ended, 4096)
                self.reap()
            if self.listener in sources and (request := self.answer()):
                signal.set_wakeup_fd(-1)
                for descriptor in (ended, wakes):
                    os.close(descriptor)
                return request

    def answer(self) -> Request | None:
        """Fork for a new connection, or leave it to a real interpreter; a request in the child."""
        connection, _ = self.listener.accept()
        request, streams = _received(connection)
        if request is None or request.early() != self.early:
            with contextlib.suppress(OSError):
                connection.sendall(b"0\n")
            connection.close()
        elif number := os.fork():
            # Here and in the child, so that it holds for whichever goes on first.
            with contextlib.suppress(OSError):
                os.setpgid(number, number)
            self.connections[number] = connection
            self.selector.register(connection, selectors.EVENT_READ, data=number)
            with contextlib.suppress(OSError):
                connection.sendall(f"{number}\n".encode())
        else:
            os.setpgid(0, 0)
            for index, stream in enumerate(streams):
                os.dup2(stream, index)
                os.close(stream)
            self.selector.close()
            for held in (self.listener, connection, *self.connections.values()):
                held.close()
            return request
        for stream in streams:
            os.close(stream)
        return None

    def kill(self, number: int) -> None:
        """End a child, and what it started, with the one who asked for it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(number, signal.SIGKILL)
        with contextlib.suppress(KeyError):
            self.selector.unregister(self.connections[number])

    def reap(self) -> None:
        """Tell how children ended that did."""
        while self.connections:
            number, status = os.waitpid(-1, os.WNOHANG)
            if number == 0:
                return
            connection = self.connections.pop(number)
            with contextlib.suppress(KeyError):
                self.selector.unregister(connection)
            with contextlib.suppress(OSError):
                connection.sendall(f"{status}\n".encode())
            connection.close()


def _received(connection: socket.socket) -> tuple[Request | None, list[int]]:
    content, streams, _, _ = socket.recv_fds(connection, 1 << 16, 3)
    while content and not content.endswith(b"\n"):
        more = connection.recv(1 << 16)
        content = content + more if more else b""
    return (Request(**json.loads(content)) if content else None), streams


def become(request: Request, set_by_imports: dict[str, str]) -> None:
    """Make this process what a fresh interpreter in the request's place would be."""
    os.environ.clear()
    os.environ.update({**set_by_imports, **request.environment})
    os.chdir(request.folder)
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    how, _, *rest = request.started
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    own = [request.folder if how == "-m" else "", *filter(None, paths)]
    sys.path[:1] = [] if request.is_isolated else own
    sys.argv = [how, *rest]
    sys.orig_argv[:] = [sys.executable, *request.arguments]
    sys.stdout.reconfigure(line_buffering=os.isatty(1))  # type: ignore[union-attr]
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in request.ignored:
        signal.signal(number, signal.SIG_IGN)
    # The one generator that would go on from where the server's stands: Python's own starts anew.
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()


class End:
    """Leaves out what an interpreter does last, when all else is done: taking every module apart.

    After these imports that takes most of a second. Made before any import, so that what libraries
    do at the end comes first.
    """

    def __init__(self) -> None:
        self.code: int | None = None
        atexit.register(self._leave)

    def run(self, how: str, what: str) -> None:
        """Run a module as `python -m` does, or code as `python -c`, and remember the exit code."""
        try:
            if how == "-m":
                runpy.run_module(what, run_name="__main__", alter_sys=True)
            else:
                module = sys.modules["__main__"] = types.ModuleType("__main__")
                exec(compile(what, "<string>", "exec"), module.__dict__)
            self.code = 0
        except SystemExit as end:
            self.code = end.code if isinstance(end.code, int) else int(end.code is not None)
            raise
        except Exception:
            self.code = 1
            raise

    def _leave(self) -> None:
        if self.code is not None:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(self.code & 0xFF)


def _prepare_stages() -> None:
    import torch
    from tqdm import tqdm
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    # It compiles a thousand patterns when the first model is loaded.
    get_checkpoint_conversion_mapping("llama")
    torch.set_num_threads(1)
    # Made here, it would be one for all children, and a killed one would hold it for good.
    assert not hasattr(tqdm, "_lock")


def main(descriptor: int, command: str) -> None:
    end = End()
    server = Server(socket.socket(fileno=descriptor))
    before = dict(os.environ)
    for library in LIBRARIES[command]:
        importlib.import_module(library)
    if command == "python":
        _prepare_stages()
    set_by_imports = {k: v for k, v in os.environ.items() if before.get(k) != v}
    threads = {task.read_text().strip() for task in Path("/proc/self/task").glob("*/comm")}
    # No thread outlives a fork. Arrow's allocator knows, and starts its own again.
    assert threads <= {Path("/proc/self/comm").read_text().strip(), "jemalloc_bg_thd"}, threads
    assert "pipeline" not in sys.modules
    # What is imported is not looked through, and so not copied, in every child.
    gc.collect()
    gc.freeze()
    if request := server.serve():
        become(request, set_by_imports)
        end.run(*request.started[:2])


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
