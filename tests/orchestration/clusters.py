"""Ray clusters whose machines are all this one, and a machine that loses its power."""

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from unittest import mock

import psutil

# Ray's own default is 30 % of the memory, of which /dev/shm has less in a container.
_STORE_BYTES = 80 * 2**20


@contextmanager
def machines(*environments: Mapping[str, str]) -> Iterator[str]:
    """Ray's own cluster for tests: a node of one CPU for each environment; yields its address.

    Whatever happens, no process of it is left behind.
    """
    from ray.cluster_utils import Cluster

    # Not below pytest's folders: a socket's path has at most 107 bytes.
    folder = tempfile.mkdtemp(prefix="ray-")
    before = _children()
    with mock.patch.dict(os.environ, {"RAY_USAGE_STATS_ENABLED": "0"}):
        cluster = Cluster(shutdown_at_exit=False)
        try:
            for environment in environments:
                cluster.add_node(
                    num_cpus=1,
                    object_store_memory=_STORE_BYTES,
                    include_dashboard=False,
                    env_vars=dict(environment),
                    temp_dir=folder,
                )
            yield cluster.address
        finally:
            started = _children() - before
            with contextlib.suppress(Exception):
                cluster.shutdown()
            for process in started:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            shutil.rmtree(folder, ignore_errors=True)


def cut_power(training: int) -> None:
    """Kill a training's process and all of its worker: nothing of it can put anything in order."""
    above = psutil.Process(training).parents()
    names = [process.name() for process in above]
    actor = above[names.index("raylet") - 1]
    for process in (actor, *actor.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))
