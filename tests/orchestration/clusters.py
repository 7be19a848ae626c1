"""Ray clusters whose machines are all this one, and a machine that loses its power.

`python -m tests.orchestration.clusters '[{"NAME": "value"}, {}]'` holds a cluster of two machines,
with these environments, until its standard input closes: whatever becomes of the tests, nothing of
it is left behind. Prints its address.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.conftest import ROOT

# Ray's own default is 30 % of the memory, of which /dev/shm has less in a container.
_STORE_BYTES = 80 * 2**20
_SECONDS = 60.0  # for all of it to end


@contextmanager
def machines(*environments: Mapping[str, str]) -> Iterator[str]:
    """A machine of one CPU for each environment; yields the cluster's address."""
    holder = subprocess.Popen(
        [sys.executable, "-m", __name__, json.dumps(environments)],
        cwd=ROOT,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # Ray makes its process group the one that ends with it.
        start_new_session=True,
    )
    assert holder.stdout is not None
    try:
        address = holder.stdout.readline().strip()
        assert address, "no cluster was started"
        yield address
    finally:
        left = psutil.Process(holder.pid).children(recursive=True)
        with contextlib.suppress(subprocess.TimeoutExpired):
            holder.communicate(timeout=_SECONDS)
        for process in (holder, *left):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def _hold(environments: list[dict[str, str]]) -> None:
    from ray._private.utils import get_ray_address_file
    from ray.cluster_utils import Cluster

    # Ray notes the cluster's address there and, with a folder of one's own, does not make it.
    Path(get_ray_address_file(None)).parent.mkdir(parents=True, exist_ok=True)
    # Not below pytest's folders: a socket's path has at most 107 bytes.
    folder = tempfile.mkdtemp(prefix="ray-")
    cluster = Cluster()
    try:
        for environment in environments:
            cluster.add_node(
                num_cpus=1,
                object_store_memory=_STORE_BYTES,
                include_dashboard=False,
                env_vars=environment,
                temp_dir=folder,
            )
        print(cluster.address, flush=True)
        sys.stdin.read()
    finally:
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def cut_power(training: int) -> None:
    """Kill a training's process and all of its worker: nothing of it can put anything in order."""
    above = psutil.Process(training).parents()
    names = [process.name() for process in above]
    actor = above[names.index("raylet") - 1]
    for process in (actor, *actor.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)


if __name__ == "__main__":
    _hold(json.loads(sys.argv[1]))
