"""Kills a stage at random moments, and compares the bytes of what it ends with.

python -m tests.faults.kills --kills 50 --seed 0
python -m tests.faults.kills --of self_study --kills 50

One process imports torch once and forks a child for every start of the stage. It never computes a
gradient itself, since torch's autograd does not outlive a fork. Prints a JSON object a kill.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from pipeline.workspace import paths
from tests.faults.killed import KILLED, Killed
from tests.faults.training_folder import working_in

_GOING_ON = re.compile(r"going on after step (\d+)")


@dataclass
class Outcome:
    """One run that was killed at the given seconds, and then left to end.

    Of what is no training `resumed_after_step` is 0.
    """

    seconds: list[float]
    signals: list[str]
    resumed_after_step: int
    is_identical: bool


def start(killed: Killed, log: Path) -> int:
    """Start the stage in a child process; returns its number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        _lock_bars_apart()
        killed.run()
        code = 0
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(code)


def _lock_bars_apart() -> None:
    """Give every kind of tqdm's bars a lock of this process.

    Their own is shared by forked processes, so that one that was killed would hold it for good.
    """
    lock = threading.RLock()
    kinds = [tqdm]
    for kind in kinds:
        kind.set_lock(lock)
        # A library's kind of bars has a lock of its own, once it has shown one.
        kinds += kind.__subclasses__()


def finish(child: int, log: Path) -> None:
    """Wait for a child that has to succeed."""
    _, status = os.waitpid(child, 0)
    if status != 0:
        raise AssertionError(f"the stage failed:\n{log.read_text()}")


def forget(folder: Path, written: tuple[Path, ...] = (paths.TRAIN,)) -> None:
    """Remove everything that a stage left."""
    for path in (*written, paths.CHECKPOINTS, paths.OUTBOX):
        shutil.rmtree(folder / path, ignore_errors=True)


def outs(killed: Killed, folder: Path) -> dict[str, bytes]:
    """The bytes of all that the stage wrote, what it left aside among them."""
    found = [path for written in killed.written for path in (folder / written).rglob("*")]
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(found)
        if path.is_file()
    }


def kill_once(
    killed: Killed, folder: Path, draw: random.Random, seconds: float, expected: dict[str, bytes]
) -> Outcome:
    """Kill the stage once, perhaps several times, let it end, and compare."""
    log = folder / "log.txt"
    forget(folder, killed.written)
    moments: list[float] = []
    sent: list[str] = []
    while not moments or draw.random() < 0.3:
        moments.append(round(draw.uniform(0, seconds), 3))
        number = draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
        sent.append(number.name)
        child = start(killed, log)
        time.sleep(moments[-1])
        os.kill(child, number)
        os.waitpid(child, 0)
    finish(start(killed, log), log)
    resumed = _GOING_ON.search(log.read_text())
    return Outcome(
        moments, sent, int(resumed[1]) if resumed else 0, outs(killed, folder) == expected
    )


def run(killed: Killed, folder: Path, kills: int, seed: int) -> list[Outcome]:
    """The reference, then as often the stage killed, in a folder that is made here."""
    import mlflow  # noqa: F401  # once, for all children
    import torch

    torch.set_num_threads(1)
    # No server there, and no waiting for one: the outbox takes everything.
    os.environ |= {
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }
    killed.make(folder)
    draw = random.Random(seed)
    with working_in(folder):
        log = folder / "log.txt"
        began = time.perf_counter()
        finish(start(killed, log), log)
        seconds = time.perf_counter() - began
        expected = outs(killed, folder)
        outcomes = []
        for _ in range(kills):
            outcomes.append(kill_once(killed, folder, draw, seconds, expected))
            print(json.dumps(asdict(outcomes[-1])), flush=True)
    return outcomes


def main() -> int:
    """Returns 1 when anything ended with other bytes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--of", choices=KILLED, default="train")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        killed = KILLED[arguments.of]
        outcomes = run(killed, Path(folder), arguments.kills, arguments.seed)
    same = sum(outcome.is_identical for outcome in outcomes)
    resumed = sum(outcome.resumed_after_step > 0 for outcome in outcomes)
    print(f"{same} of {len(outcomes)} byte-identical, {resumed} went on from a checkpoint")
    return int(same < len(outcomes))


if __name__ == "__main__":
    sys.exit(main())
