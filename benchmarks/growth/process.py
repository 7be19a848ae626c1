"""A command in a process of its own: how long it takes, and the most memory it has.

Two numbers, as Linux counts them in `/proc`: anonymous memory (`RssAnon`, what the process holds
and nothing else can give back), looked at every 50 ms, and all resident pages (`VmHWM`, the
kernel's own maximum), among them pages of mapped files, which the kernel drops when it needs room.
"""

import os
import re
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FIELD = re.compile(r"^(RssAnon|VmHWM):\s+(\d+) kB", re.MULTILINE)
_SECONDS = 0.05


@dataclass(frozen=True)
class Measured:
    """Seconds, of the processor too, and MB at the most of anonymous memory and of all pages."""

    seconds: float
    processor_seconds: float
    anonymous_mb: float
    resident_mb: float
    output: str


def measured(arguments: list[str], folder: Path) -> Measured:
    """Run Python with `arguments` in a folder. Raises RuntimeError with what it said of failing."""
    began, before = time.perf_counter(), _processor_seconds()
    anonymous = pages = 0
    with (folder / "output.txt").open("w+", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "CI": "true"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        while process.poll() is None:
            found = _memory(process.pid)
            anonymous = max(anonymous, found.get("RssAnon", 0))
            pages = max(pages, found.get("VmHWM", 0))
            time.sleep(_SECONDS)
        output.seek(0)
        said = output.read()
    if process.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: {said[-2000:]}")
    seconds, own = time.perf_counter() - began, _processor_seconds() - before
    return Measured(seconds, own, anonymous / 1024, pages / 1024, said)


def _processor_seconds() -> float:
    """Of all processes that were waited for, which on a machine shared with others says more."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _memory(process: int) -> dict[str, int]:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return {}
    return {name: int(kilobytes) for name, kilobytes in _FIELD.findall(status)}
