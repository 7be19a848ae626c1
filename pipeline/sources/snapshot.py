"""A repository of the Hugging Face Hub at the commit that a revision names."""

from pathlib import Path
from typing import Literal

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from pipeline.errors import PipelineError, first_line


def fetched_snapshot(
    key: str, kind: Literal["model", "dataset"], name: str, revision: str, patterns: list[str]
) -> Path:
    """The folder of a repository's files that match `patterns`; its name is the commit's.

    Without a network the commit is the one that the local cache knows for the revision. Raises
    PipelineError, naming the params section `key`, when neither has it.
    """
    try:
        folder = snapshot_download(name, repo_type=kind, revision=revision, allow_patterns=patterns)
    except (HfHubHTTPError, ValueError) as error:
        # Both stand among OSErrors or beside them: what the Hub answered, or would not be asked.
        raise PipelineError(
            f"{key}.id: cannot fetch '{name}' at revision '{revision}': {first_line(error)}"
        ) from error
    except OSError as error:
        raise PipelineError(
            f"{key}.id: cannot reach the Hugging Face Hub for '{name}' at revision "
            f"'{revision}'; check the name, the revision and the network"
        ) from error
    return Path(folder)
