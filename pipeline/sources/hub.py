"""Rows of a data set of the Hugging Face Hub."""

from datasets import load_dataset
from datasets.exceptions import DatasetNotFoundError

from pipeline.config.data import HubData
from pipeline.errors import PipelineError, first_line
from pipeline.sources.plain import Row, plain_row
from pipeline.sources.snapshot import fetched_snapshot


def hub_rows(params: HubData) -> dict[str, list[Row]]:
    """The rows of each split of a Hub data set, at one commit; no code of it runs.

    Raises:
        PipelineError: when the data set or a split cannot be had.
    """
    splits = {}
    for split, name in params.splits.model_dump().items():
        if name is None:
            continue
        try:
            table = load_dataset(params.id, params.name, split=name, revision=params.revision)
        except DatasetNotFoundError as error:
            raise PipelineError(
                f"data.id: the Hugging Face Hub has no '{params.id}' at revision "
                f"'{params.revision}', or it is private"
            ) from error
        except (OSError, ValueError, RuntimeError) as error:
            raise PipelineError(
                f"data.splits.{split}: cannot load '{name}' of '{params.id}': {first_line(error)}"
            ) from error
        splits[split] = [plain_row(row) for row in table]
    return splits


def at_commit(params: HubData) -> HubData:
    """The same at the commit that its revision names now: a branch moves on, a commit does not."""
    # Its card alone: `load_dataset` fetches what the splits need.
    folder = fetched_snapshot("data", "dataset", params.id, params.revision, ["README.md"])
    return params.model_copy(update={"revision": folder.name})
