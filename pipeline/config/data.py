"""Where the data come from: the `data` section."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.schema.section import Count, Section, Sha256

SPLITS = ("train", "validation", "test", "test_unseen")
"""The splits in the pipeline's order; `test_unseen` holds topics that training never saw."""


class SplitSizes(Section):
    """The most examples kept of each split; null keeps all."""

    train: Count | None = None
    validation: Count | None = None
    test: Count | None = None
    test_unseen: Count | None = None


class FactbookData(Section):
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
    """A file for each split: JSON lines, CSV or Parquet, by its suffix."""

    train: str
    validation: str
    test: str
    test_unseen: str | None = None


class FileData(Section):
    """Local files, one a split."""

    source: Literal["files"]
    files: SplitFiles
    max_examples: SplitSizes = SplitSizes()
    seed: int = 0


class SplitNames(Section):
    """The data set's own name for each split."""

    train: str = "train"
    validation: str = "validation"
    test: str = "test"
    test_unseen: str | None = None


class HubData(Section):
    """A data set of the Hugging Face Hub at one revision."""

    source: Literal["hub"]
    id: str
    revision: str
    name: str | None = None
    splits: SplitNames = SplitNames()
    max_examples: SplitSizes = SplitSizes()
    seed: int = 0


DataParams = Annotated[FactbookData | FileData | HubData, Field(discriminator="source")]
