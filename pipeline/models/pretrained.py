"""The pretrained model on disk, for the baselines that adapt it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedModel

from pipeline.models.frozen import load_frozen_model
from pipeline.models.kept import let_go
from pipeline.schema.compute import Compute


@dataclass(frozen=True)
class PretrainedFolder:
    """A folder that `save_pretrained` wrote, and where and in which precision to load it."""

    folder: Path
    compute: Compute

    @property
    def stored_dtype(self) -> Any:
        """The dtype of the weights on disk."""
        return AutoConfig.from_pretrained(self.folder, local_files_only=True).dtype

    def load(self, dtype: str | None = None) -> PreTrainedModel:
        """The causal language model in evaluation mode, no weight of which takes a gradient.

        Raises PipelineError when the folder does not hold one.
        """
        let_go()
        changes = {} if dtype is None else {"dtype": dtype}
        return load_frozen_model(self.folder, self.compute.model_copy(update=changes))

    def at(self, folder: Path) -> "PretrainedFolder":
        """Another folder, loaded alike."""
        return replace(self, folder=folder)
