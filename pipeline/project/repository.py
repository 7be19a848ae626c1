"""The git and DVC repository of a new project."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import PipelineError

DATA = "inputs"
_MESSAGE = "Begin a comparison of prefixes"


def refuse_without_git() -> None:
    """Raise PipelineError where there is no git, on which DVC builds."""
    if shutil.which("git") is None:
        raise PipelineError(
            "git: is not installed; install it, DVC keeps a project's history in it"
        )


def record(folder: Path, origin: Path, had_content: bool) -> Iterator[str]:
    """Give the data to DVC and all else to git; a sentence for each.

    A folder within another git repository stays part of it, unless that is the clone at `origin`,
    whose code this is: nothing is committed there, nor where other files stood before. Raises
    PipelineError with what DVC or git says where either refuses.
    """
    around = _root_of_git(folder)
    is_own = around is None or (around == origin.resolve() and around != folder.resolve())
    if is_own:
        _run(folder, "git", "init", "--quiet")
    _run(folder, sys.executable, "-m", "dvc", "add", "--quiet", DATA)
    yield f"DVC keeps {DATA}/, out of git; `dvc push` sends it to a remote of yours"
    if not is_own:
        name = "" if around == folder.resolve() else f" of {around}"
        yield f"git: nothing is committed; `git add` and commit it in the repository{name}"
        return
    if had_content:
        yield (
            "git: a repository of its own, nothing committed, since the folder held files before; "
            "`git add` and commit what belongs to it"
        )
        return
    _run(folder, "git", "add", "--all")
    if _has_identity(folder):
        _run(folder, "git", "commit", "--quiet", "--no-verify", "--message", _MESSAGE)
        yield f"git: a repository of its own, with a first commit ('{_MESSAGE}')"
    else:
        yield (
            "git: a repository of its own, nothing committed, since git does not know you; "
            f"`git config --global user.email you@example.org`, then `git commit -m '{_MESSAGE}'`"
        )


def _root_of_git(folder: Path) -> Path | None:
    """The root of the git repository that a folder is in, None for none."""
    found = _asked(folder, "git", "rev-parse", "--show-toplevel")
    return Path(found).resolve() if found else None


def _has_identity(folder: Path) -> bool:
    return all(_asked(folder, "git", "config", key) for key in ("user.name", "user.email"))


def _asked(folder: Path, *command: str) -> str:
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return found.stdout.strip() if found.returncode == 0 else ""


def _run(folder: Path, *command: str) -> None:
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    if found.returncode != 0:
        said = " ".join((found.stderr or found.stdout).split())
        what = " ".join(command[command.index("-m") + 1 :] if "-m" in command else command)
        raise PipelineError(f"`{what}` failed in {folder}, whose files are complete: {said}")
