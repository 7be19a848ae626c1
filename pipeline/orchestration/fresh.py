"""Each stage meets the process as a new one would be, whatever ran in it before.

What costs seconds and changes no result is kept: imports, the frozen model, the CPU's kernel. What
a stage may have changed for itself is put back.
"""

import gc
import os
import random
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


class Fresh:
    """The state of this process before its first stage."""

    def __init__(self) -> None:
        import numpy as np
        import torch

        self._environment = dict(os.environ)
        self._folder = os.getcwd()  # noqa: PTH109  # given back to chdir as it is
        self._torch = torch.get_rng_state()
        self._numpy = np.random.get_state()
        self._python = random.getstate()
        self._threads = torch.get_num_threads()
        self._dtype = torch.get_default_dtype()
        _collect()

    @contextmanager
    def stage(self) -> Iterator[None]:
        """Within it runs one stage; before it everything is as it was, afterwards nothing stays."""
        self._restore()
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        graphs = _compiled_graphs()
        try:
            with warnings.catch_warnings():
                yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            if _compiled_graphs() != graphs:
                _forget_compiled()
            _end_runs()
            _collect()

    def _restore(self) -> None:
        import numpy as np
        import torch

        os.environ.clear()
        os.environ.update(self._environment)
        os.chdir(self._folder)
        torch.set_rng_state(self._torch)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(torch.initial_seed())
        np.random.set_state(self._numpy)
        random.setstate(self._python)
        torch.set_num_threads(self._threads)
        torch.set_default_dtype(self._dtype)
        torch.set_grad_enabled(True)


def _collect() -> None:
    """Free what is left in circles, as models are; the next stage may load its own.

    What outlives it (imports, the kept model until `let_go`) is not looked through again.
    """
    gc.collect()
    gc.freeze()


def _compiled_graphs() -> int:
    """How many graphs torch.compile has made in this process."""
    utils = sys.modules.get("torch._dynamo.utils")
    return 0 if utils is None else int(utils.counters["stats"]["unique_graphs"])


def _forget_compiled() -> None:
    """Generated code goes by the sizes that it met first, which were the stage's before."""
    import torch

    torch.compiler.reset()


def _end_runs() -> None:
    mlflow = sys.modules.get("mlflow")
    while mlflow is not None and mlflow.active_run() is not None:
        mlflow.end_run()
