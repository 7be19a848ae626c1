"""Failures of the machine, told as a sentence: a full disk, an unwritable folder, damaged files."""

import errno
import os

from pipeline.errors.memory import how_to_save, is_out_of_memory
from pipeline.errors.mistakes import PipelineError

_REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of your quota",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f)",
    errno.EACCES: "make it accessible to this user",
    errno.EPERM: "make it accessible to this user",
    errno.EROFS: "make the file system writable",
    errno.EIO: "check the disk",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENOTDIR: "move away the file that stands where a folder belongs",
    errno.EISDIR: "move away the folder that stands where a file belongs",
    errno.ENAMETOOLONG: "use a shorter name",
}
_AGAIN = "and run `dvc repro` again; nothing half-written was left in place"


def sentence_of(error: BaseException, command: str | None = None) -> str | None:
    """What a user is told of any error: a mistake's sentence, or a failure's with its remedy.

    None for what has neither, which is a bug. `command` as of `explained`.
    """
    if isinstance(error, PipelineError):
        return str(error)
    # PrefixError lives in the library, whose import costs seconds: tell it by its class.
    if isinstance(error, ValueError) and type(error).__module__.startswith("pipeline.prefix"):
        return str(error)
    return explained(error, command)


def explained(error: BaseException, command: str | None = None) -> str | None:
    """One sentence with the remedy for what the machine refused; None for any other error.

    `command` is the subcommand that it refused, by which memory is saved in different ways.

    Libraries that write for themselves (safetensors, tokenizers) hide the operating system's
    number in their text: it is read from there.
    """
    if is_out_of_memory(error):
        return how_to_save(error, command)
    number = _number(error)
    if number not in _REMEDIES:
        return None
    path = getattr(error, "filename", None)
    where = f"{os.fspath(path)}: " if path else ""
    return f"{where}{os.strerror(number)}; {_REMEDIES[number]}, {_AGAIN}"


def _number(error: BaseException) -> int:
    if isinstance(error, OSError) and error.errno:
        return int(error.errno)
    text = str(error)
    return next((known for known in _REMEDIES if f"(os error {known})" in text), 0) or next(
        (known for known in _REMEDIES if os.strerror(known) in text), 0
    )
