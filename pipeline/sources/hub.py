"""Rows of a data set of the Hugging Face Hub."""

from collections.abc import Iterator
from dataclasses import fields
from functools import partial
from itertools import islice
from pathlib import Path

from datasets import (
    Dataset,
    DatasetBuilder,
    DownloadManager,
    ReadInstruction,
    load_dataset_builder,
)
from datasets.exceptions import DatasetNotFoundError

from pipeline.config.data import HubData
from pipeline.errors import PipelineError, first_line
from pipeline.sources.formats.arrow_rows import arrow_rows
from pipeline.sources.formats.table import kind_of, rows_of
from pipeline.sources.rows import Row, Rows
from pipeline.sources.snapshot import fetched_snapshot

_ROWS_AT_ONCE = 1024
# Of files without types of their own `datasets` guesses types: 01234 becomes 1234, even where the
# card says that it is text, and a text that looks like a date a time stamp.
_READ_AS_LOCAL = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
# What the card may set without a change of how such files are read.
_NAMES_AND_PLACES = ("name", "version", "description", "data_dir", "data_files", "features")
_DELIMITER = ("sep", "delimiter")


def hub_rows(params: HubData, scratch: Path) -> dict[str, Rows]:
    """The rows of each split of a Hub data set, at one commit; no code of it runs.

    Its files of JSON, CSV and TSV are read as local ones are, unless its card has settings beyond a
    delimiter; `datasets` reads all else, into Arrow files in `scratch`, which must be there as long
    as the rows are read.

    Raises:
        PipelineError: when the data set or a split cannot be had.
    """
    builder = _builder(params, scratch)
    names = {split: name for split, name in params.splits.model_dump().items() if name is not None}
    splits = {}
    for split, name in names.items():
        try:
            splits[split] = _split(builder, name)
        except MemoryError:
            raise
        except Exception as error:  # each format's library raises kinds of its own
            raise PipelineError(
                f"data.splits.{split}: cannot load '{name}' of '{params.id}': {first_line(error)}"
            ) from error
    return splits


def at_commit(params: HubData) -> HubData:
    """The same at the commit that its revision names now: a branch moves on, a commit does not."""
    return params.model_copy(update={"revision": _known_folder(params).name})


def _known_folder(params: HubData) -> Path:
    # Its card alone: the builder fetches what the splits need.
    return fetched_snapshot("data", "dataset", params.id, params.revision, ["README.md"])


def _builder(params: HubData, scratch: Path) -> DatasetBuilder:
    """What reads the data set. Its cache is empty, so that no earlier reading has a say."""
    try:
        try:
            # A folder of the same name beside params.yaml is another thing.
            return load_dataset_builder(
                f"hf://datasets/{params.id}",
                params.name,
                revision=params.revision,
                cache_dir=str(scratch),
            )
        except ConnectionError:
            # What an earlier fetch of the same commit left.
            folder = str(_known_folder(params))
            return load_dataset_builder(folder, params.name, cache_dir=str(scratch))
    except DatasetNotFoundError as error:
        raise PipelineError(
            f"data.id: the Hugging Face Hub has no '{params.id}' at revision "
            f"'{params.revision}', or it is private"
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        raise PipelineError(
            f"data.id: cannot load '{params.id}' at revision '{params.revision}': "
            f"{first_line(error)}"
        ) from error


def _split(builder: DatasetBuilder, name: str) -> Rows:
    """The rows of a split by its own name, or of a part as `datasets` writes it (train[:10%])."""
    if not _is_read_as_local(builder):
        builder.download_and_prepare()
        table = builder.as_dataset(split=name)
        return Rows.counted(partial(_rows_of_table, table))
    instruction = ReadInstruction.from_spec(name)
    files = builder.config.data_files
    named = {part.splitname for part in instruction.to_absolute(dict.fromkeys(files, 0))}
    known = {split: _rows_of_files(builder, split) for split in sorted(named)}
    parts = instruction.to_absolute({split: rows.count for split, rows in known.items()})

    def read() -> Iterator[Row]:
        for part in parts:
            yield from islice(known[part.splitname].read(), part.from_, part.to)

    return Rows.counted(read, known[parts[0].splitname].missing)


def _is_read_as_local(builder: DatasetBuilder) -> bool:
    config = builder.config
    files = [Path(file) for split in config.data_files or {} for file in config.data_files[split]]
    if not files or any(kind_of(file) not in _READ_AS_LOCAL for file in files):
        return False
    usual = type(config)()
    told = {f.name for f in fields(config) if getattr(config, f.name) != getattr(usual, f.name)}
    return told <= {*_NAMES_AND_PLACES, *_DELIMITER}


def _rows_of_files(builder: DatasetBuilder, split: str) -> Rows:
    download = DownloadManager(builder.dataset_name, base_path=builder.base_path)
    files = [Path(file) for file in download.download(list(builder.config.data_files[split]))]
    options = {"delimiter": builder.config.sep} if builder.name == "csv" else {}
    return rows_of(files, kind_of(files[0]), **options)


def _rows_of_table(table: Dataset) -> Iterator[Row]:
    for part in table.with_format("arrow").iter(batch_size=_ROWS_AT_ONCE):
        yield from arrow_rows(part)
