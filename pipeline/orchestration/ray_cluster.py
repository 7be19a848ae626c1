"""Connecting to a Ray cluster, and what share of it one worker gets."""

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import isnan
from types import ModuleType
from typing import Any

from pipeline.errors import PipelineError, first_line

# Read while Ray is imported: nobody is told of its use.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


_SECONDS_TO_ANSWER = 10.0


def import_ray() -> ModuleType:
    """Ray, an optional extra. Raises PipelineError where it is not installed."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise PipelineError("--address needs Ray: run `pip install '.[ray]'`") from error
    return ray


@contextmanager
def connected(address: str) -> Iterator[ModuleType]:
    """Ray, connected to the cluster at `address`; a connection that was there before is used.

    `auto` is the cluster that this machine belongs to, `host:port` one by its head's address, and
    `ray://host:port` by its client server. Raises PipelineError where nothing answers.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    try:
        _await_answer(address)
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (OSError, RuntimeError, ValueError) as error:
        raise PipelineError(
            f"--address {address}: no Ray cluster answers there ({first_line(error)}); start one "
            "by `ray start --head`, and join it elsewhere by `ray start --address HOST:6379`"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _await_answer(address: str) -> None:
    """Raises OSError where nobody listens: Ray itself would try again for minutes."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if separator and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), _SECONDS_TO_ANSWER).close()


def share_of(nodes: Sequence[dict[str, Any]], workers: int, gpus: float | None) -> dict[str, float]:
    """What one of so many workers reserves: `num_cpus` and `num_gpus`, as Ray's options name them.

    `nodes` is what `ray.nodes()` tells. Where there are GPUs, a worker gets one, or the number or
    fraction that `gpus` says; elsewhere as many CPUs as let all workers have their place. Raises
    PipelineError where no machine has room for a single one.
    """
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    most = max((node.get("GPU", 0.0) for node in resources), default=0.0)
    if gpus is None:
        gpus = 1.0 if most else 0.0
    if gpus > most:
        raise PipelineError(
            f"--gpus-per-worker {gpus:g} is more than any machine of the cluster has ({most:g}); "
            "lower it, or 0 for CPUs alone"
        )
    if isnan(gpus) or (gpus > 1 and gpus % 1):
        raise PipelineError(
            f"--gpus-per-worker {gpus:g} is no share of a GPU; use a fraction of 1 or a whole "
            "number"
        )
    cpus = [node.get("CPU", 0.0) for node in resources]
    if max(cpus, default=0.0) < 1:
        raise PipelineError("no machine of the cluster offers a CPU; start Ray with --num-cpus")
    if gpus:
        return {"num_cpus": 1, "num_gpus": gpus}
    fitting = [n for n in range(1, int(max(cpus)) + 1) if _places(resources, n, 0) >= workers]
    return {"num_cpus": max(fitting, default=1), "num_gpus": 0}


def gpus_for(nodes: Sequence[dict[str, Any]], needed: int | None) -> float:
    """The GPUs of a worker whose stages use so many (None: all of a machine), as far as one has."""
    most = max((node["Resources"].get("GPU", 0.0) for node in nodes if node["Alive"]), default=0.0)
    return most if needed is None else min(float(needed), most)


def default_workers(nodes: Sequence[dict[str, Any]], gpus: float | None) -> int:
    """One for each GPU of the cluster, or for each share of one; without GPUs one a machine."""
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    total = sum(node.get("GPU", 0.0) for node in resources)
    if not total or gpus == 0:
        return max(1, sum(node.get("CPU", 0.0) >= 1 for node in resources))
    return max(1, _places(resources, 1, gpus or 1.0))


def places_in(nodes: Sequence[dict[str, Any]], share: dict[str, float]) -> int:
    """How many workers with this share the machines hold at once."""
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    return _places(resources, share["num_cpus"], share["num_gpus"])


def _places(resources: Sequence[dict[str, float]], cpus: float, gpus: float) -> int:
    return sum(
        int(min(node.get("CPU", 0) // cpus, node.get("GPU", 0) // gpus if gpus else 10**6))
        for node in resources
    )
