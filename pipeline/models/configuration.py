"""A model's configuration, for what can be known of a model without its weights."""

from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig


def read_configuration(folder: Path) -> PreTrainedConfig | None:
    """The configuration of the model in a folder; None of what is no model's folder.

    What is wrong with it says who loads the model.
    """
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError, TypeError, StrictDataclassError):
        return None
