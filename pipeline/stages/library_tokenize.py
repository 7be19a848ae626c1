"""Stage `library_tokenize`: what one document's prefix is trained on, and is asked in the end."""

from collections.abc import Iterator
from pathlib import Path

from pipeline.config import Params
from pipeline.data.rendering import Renderer
from pipeline.data.splits import save_splits
from pipeline.data.tokenizing import TokenizedSplit
from pipeline.models.tokenizer import load_tokenizer
from pipeline.preflight.names import check_document
from pipeline.sources.corpus import studied_rows
from pipeline.sources.held_out import named_file, questions_in
from pipeline.sources.rows import Row, Rows
from pipeline.workspace import paths


def run(params: Params, name: str) -> None:
    """Write data/library/tokenized/<name>: train, validation, and test where a file has one."""
    check_document(params, name)
    folder, key = Path(params.library.held_out), "library.held_out"
    file = named_file(folder, name, key) if folder.is_dir() else None
    held_out = {} if file is None else {"test": questions_in(file, key)}
    studied = studied_rows(paths.LIBRARY_STUDY / name, held_out, key)
    renderer = Renderer(params.task, load_tokenizer(paths.MODEL))
    columns = studied["train"].columns
    splits = {
        split: TokenizedSplit(renderer, split, _named(rows.with_nulls(columns), split))
        for split, rows in {**studied, **held_out}.items()
    }
    save_splits(splits, paths.LIBRARY_TOKENIZED / name)
    print(", ".join(f"{split}: {len(rows.lengths)} examples" for split, rows in splits.items()))


def _named(rows: Rows, split: str) -> Iterator[Row]:
    """Rows with an `id`: a person's own questions may have none."""
    for number, row in enumerate(rows):
        own = row.get("id")
        yield {**row, "id": f"{split}-{number}" if own is None else own}
