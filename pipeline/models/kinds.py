"""Which kinds of prefix the model in a folder can have, by its configuration alone."""

from pathlib import Path

from transformers import AutoConfig

from pipeline.prefix.architecture.recurrence import kinds_of


def kinds_of_model(folder: Path) -> tuple[str, ...] | None:
    """Keys and values ("attention"), states ("state") or both; None of what is no model's folder.

    Costs milliseconds once transformers is imported: no weights are read.
    """
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError):
        return None
    return kinds_of(config)
