"""Where the data come from: the `data` section."""

import os
from pathlib import PurePath
from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.watched import Watched
from pipeline.schema.section import Count, Section, Sha256


class SplitSizes(Section):
    """The most examples kept of each split; null keeps all."""

    train: Count | None = None
    validation: Count | None = None
    test: Count | None = None
    test_unseen: Count | None = None


class FactbookData(Watched):
    """Questions about the country profiles of the CIA World Factbook wheel."""

    source: Literal["factbook"]
    package: str
    version: str
    sha256: Sha256
    held_out_region: str
    validation_fraction: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    test_fraction: Annotated[float, Field(gt=0, lt=0.5)] = 0.2
    examples_per_country: Count = 6
    fields_per_record: Annotated[int, Field(ge=2)] = 6
    max_value_length: Count = 60
    max_examples: SplitSizes = SplitSizes()
    seed: int = 0


class SplitFiles(Section):
    """A file for each split: JSON, CSV, TSV or Parquet, by its suffix."""

    train: str
    validation: str
    test: str
    test_unseen: str | None = None


class FileData(Watched):
    """Local files, one a split, all of them in the folder `path` (or one file, named by it)."""

    source: Literal["files"]
    files: SplitFiles
    max_examples: SplitSizes = SplitSizes()
    seed: int = 0

    def unwatched(self) -> tuple[str, str] | None:
        """The first split whose file does not lie in `path`, and that file."""
        watched = os.path.normpath(self.path)
        for split, file in self.files.model_dump().items():
            if file is not None and not PurePath(os.path.normpath(file)).is_relative_to(watched):
                return split, file
        return None


class SplitNames(Section):
    """The data set's own name for each split."""

    train: str = "train"
    validation: str = "validation"
    test: str = "test"
    test_unseen: str | None = None


class HubData(Watched):
    """A data set of the Hugging Face Hub; a revision is resolved to its commit."""

    source: Literal["hub"]
    id: str
    revision: str
    name: str | None = None
    splits: SplitNames = SplitNames()
    max_examples: SplitSizes = SplitSizes()
    seed: int = 0


class CorpusData(Watched):
    """What a self-study wrote into the folder `path`, and the questions that it holds out."""

    source: Literal["corpus"]
    max_examples: SplitSizes = SplitSizes()
    seed: int = 0


DataParams = Annotated[
    FactbookData | FileData | HubData | CorpusData, Field(discriminator="source")
]
