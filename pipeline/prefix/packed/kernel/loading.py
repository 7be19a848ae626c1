"""The C++ of this folder as a library, compiled unless it is kept."""

import ctypes
import shutil
import subprocess
from functools import cache
from typing import Any

import torch

from pipeline.prefix.packed.kernel.compiling import kept_library

_COMPILERS = ("g++", "clang++", "c++")

NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
"""The dtypes that it computes with, as its functions are called."""


@cache
def kernel_library() -> Any:
    """The compiled kernel; why there is none, a clause, where it cannot be compiled or loaded."""
    compiler = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        return f"needs a C++ compiler ({', '.join(_COMPILERS)}), of which there is none"
    try:
        library = kept_library(compiler)
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        return f"needs a C++ compiler that works; {compiler} said: {lines[-1] if lines else error}"
    except (OSError, subprocess.SubprocessError) as error:
        return f"could not be compiled or loaded ({error})"
    for dtype in NAMES.values():
        # Addresses, which are wider than the integers that ctypes takes results for.
        getattr(library, f"prefix_{dtype}").restype = ctypes.c_void_p
        getattr(library, f"free_{dtype}").argtypes = [ctypes.c_void_p]
        integer, address = ctypes.c_int64, ctypes.c_void_p
        getattr(library, f"linear_{dtype}").argtypes = [integer] * 3 + [address] * 5
        norm = getattr(library, f"norm_{dtype}")
        norm.argtypes = [integer] * 2 + [ctypes.c_float, integer] + [address] * 3
        getattr(library, f"gated_{dtype}").argtypes = [*[address] * 2, integer, *[address] * 2]
        getattr(library, f"before_{dtype}").argtypes = [address, integer, *[address] * 4]
        getattr(library, f"after_{dtype}").argtypes = [address, integer, *[address] * 3]
    return library


def kernel_lanes() -> int | None:
    """Floats of the vectors that the kernel computes with; None where there is no kernel."""
    library = kernel_library()
    return None if isinstance(library, str) else int(library.lanes())
