"""The notebooks of docs/, executed: by tests in a toy workspace, and to keep what they print.

`python -m tests.notebooks [NAME...]` runs them in the repository, after a `dvc repro` of the
default run, and writes their outputs into them. What stands there belongs to the code beside it:
the notebook keeps the digest of the code that printed it.
"""

import hashlib
import os
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "docs" / "notebooks"
DIGEST = "printed_by"


def digest(notebook: Any) -> str:
    """The checksum of a notebook's code."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\n\n".join(code).encode()).hexdigest()


def execute(name: str, workspace: Path, asked: str | None = None) -> Any:
    """The notebook with its outputs, its kernel in `workspace`; `asked` is a cell more at its end.

    Raises CellExecutionError with the cell and its traceback where one fails.
    """
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    if asked is not None:
        notebook.cells.append(nbformat.v4.new_code_cell(asked))
    how = {"kernel_name": "python3", "record_timing": False, "coalesce_streams": True}
    client = NotebookClient(notebook, timeout=1800, **how)
    # Progress bars and warnings of libraries are no part of what is read.
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1", "PYTHONWARNINGS": "ignore"}
    with mock.patch.dict(os.environ, quiet | {"HF_HUB_OFFLINE": "1"}):
        client.execute(cwd=str(workspace))
    return notebook


def printed(notebook: Any) -> str:
    """All that its cells printed."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output["text"] for output in outputs if output["output_type"] == "stream")


def keep(notebook: Any, path: Path) -> None:
    """Write a notebook with what it printed, and no trace of when and how often it ran."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for counted in (cell, *cell.outputs):
                if "execution_count" in counted:
                    counted["execution_count"] = None
    notebook.metadata[DIGEST] = digest(notebook)
    nbformat.write(notebook, path)


def main() -> None:
    """Execute the notebooks named, or all of them, in the repository."""
    for name in sys.argv[1:] or sorted(path.name for path in NOTEBOOKS.glob("*.ipynb")):
        keep(execute(name, ROOT), NOTEBOOKS / name)


if __name__ == "__main__":
    main()
