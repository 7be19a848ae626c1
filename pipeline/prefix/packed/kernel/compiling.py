"""The kernel's C++ as a library for this machine, compiled at first use and kept.

Compiling takes a few seconds, once for a machine and a version of the source; the library lies in
the user's cache folder, under a name that says what is in it: a file that was cut short is compiled
again. Where nothing can be kept, each process compiles for itself.
"""

import contextlib
import ctypes
import hashlib
import os
import subprocess
import tempfile
import warnings
from pathlib import Path

_SOURCES = Path(__file__).parent
# Contracting a product and a sum into one instruction is the only liberty taken.
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fopenmp", "-fPIC")


def kept_library(compiler: str) -> ctypes.CDLL:
    """The library for this source, compiler and processor, compiled unless it is kept.

    Raises:
        OSError: when it can be written or loaded nowhere.
        subprocess.SubprocessError: when the compiler fails.
    """
    folder, digest = cache_folder(), _digest(compiler)
    for path in _kept(folder, digest):
        # A file that is no library, or lies where nothing may be run.
        with contextlib.suppress(OSError):
            if path.stem.endswith(_content(path)):
                return ctypes.CDLL(str(path))
    with tempfile.TemporaryDirectory() as aside:
        made = Path(aside, "attention.so")
        source = str(_SOURCES / "attention.cpp")
        command = [compiler, *_FLAGS, "-shared", "-o", str(made), source]
        subprocess.run(command, capture_output=True, check=True)
        try:
            return ctypes.CDLL(str(_keep(made, folder, digest)))
        except OSError as error:
            where = "there is no home folder" if folder is None else str(error)
            warnings.warn(
                f"the attention kernel cannot be kept ({where}), so each process compiles it for "
                "some seconds; set XDG_CACHE_HOME to a folder that you can write",
                stacklevel=2,
            )
            # Loaded, it needs its file no longer.
            return ctypes.CDLL(str(made))


def cache_folder() -> Path | None:
    """`prefix-tuning` in the user's cache folder (XDG); None where there is no home."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    # The standard has relative paths ignored.
    if Path(given).is_absolute():
        return Path(given, "prefix-tuning")
    with contextlib.suppress(RuntimeError):
        return Path.home() / ".cache" / "prefix-tuning"
    return None


def _digest(compiler: str) -> str:
    # What the compiler predefines names its version and every instruction set of `native`.
    asked = [compiler, *_FLAGS, "-dM", "-E", "-x", "c++", os.devnull]
    machine = subprocess.run(asked, capture_output=True, check=True).stdout
    sources = [path.read_bytes() for path in sorted(_SOURCES.glob("*.[hc]*"))]
    digest = hashlib.sha256(b"\0".join([*sources, machine, repr(_FLAGS).encode()]))
    return digest.hexdigest()[:16]


def _content(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _kept(folder: Path | None, digest: str) -> list[Path]:
    """What may be the library; nothing where the folder cannot be looked into."""
    with contextlib.suppress(OSError):
        return [] if folder is None else sorted(folder.glob(f"attention-{digest}-*.so"))
    return []


def _keep(made: Path, folder: Path | None, digest: str) -> Path:
    """A copy in the cache folder, whole from its first moment on. Raises OSError."""
    if folder is None:
        raise FileNotFoundError("no home folder")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"attention-{digest}-{_content(made)}.so"
    number, aside = tempfile.mkstemp(dir=folder, suffix=".so")
    try:
        with os.fdopen(number, "wb") as file:
            file.write(made.read_bytes())
        Path(aside).replace(path)
    except OSError:
        Path(aside).unlink(missing_ok=True)
        raise
    return path
