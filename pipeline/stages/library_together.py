"""Stage `library_together`: every document's questions after one prefix and after several."""

from datasets import Dataset

from pipeline.config import Params
from pipeline.data.splits import load_split
from pipeline.errors import PipelineError
from pipeline.library.measuring import Measured
from pipeline.library.table import as_markdown, means
from pipeline.models.shared import load_frozen_model
from pipeline.prefix.packed.backends import use_backend
from pipeline.storage.atomic import atomic_folder
from pipeline.storage.records import write_json, write_text
from pipeline.tracking.library_run import log_library
from pipeline.tracking.store import never_fatal
from pipeline.workspace import location, paths
from pipeline.workspace.checkpoints import documents_in, remove_checkpoints


def run(params: Params, name: str) -> None:
    """Write data/library/together/<name>: losses.md, and losses.json with every arrangement."""
    use_backend(params.hardware.attention)
    library = params.library
    if name not in library.together:
        known = ", ".join(library.together) or "none"
        raise PipelineError(
            f"'{name}' is not under library.together of params.yaml; known: {known}"
        )
    together = library.together[name]
    folders = {"alone": paths.LIBRARY_ALONE}
    if library.distractors.count:
        folders["among"] = paths.LIBRARY_AMONG
    frozen = load_frozen_model(paths.MODEL, library.train, params.device_map)
    measured = Measured(
        frozen,
        {
            trained: {d: folder / d / "prefix.safetensors" for d in library.documents}
            for trained, folder in folders.items()
        },
        library.prefix.prefix_always_visible,
        params.memory.max_tokens_per_batch,
    )
    rows = measured.rows(_questions, together)
    text = as_markdown(rows, together.count)
    with atomic_folder(paths.LIBRARY_TOGETHER / name) as folder:
        write_text(folder / "losses.md", text)
        write_json(folder / "losses.json", {"documents": rows, "mean": means(rows)})
    print(text)
    # Trained and measured: nothing is to be resumed any more.
    kept = location.home() / paths.CHECKPOINTS
    remove_checkpoints(kept, *documents_in(kept))
    with never_fatal("log the library"):
        log_library(params, name, rows, means(rows), paths.LIBRARY_TOGETHER / name)


def _questions(document: str) -> tuple[str, Dataset]:
    folder = paths.LIBRARY_TOKENIZED / document
    split = "test" if (folder / "test").exists() else "validation"
    return split, load_split(folder, split)
