"""The pretrained model on disk, for the baselines that adapt it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedModel

from pipeline.errors import PipelineError
from pipeline.models.frozen import load_frozen_model
from pipeline.models.kept import let_go
from pipeline.models.quantization import is_quantized
from pipeline.prefix import KVPrefix, PrefixModel
from pipeline.prefix.architecture.devices import waits_elsewhere
from pipeline.schema.compute import Compute, DeviceMap


@dataclass(frozen=True)
class PretrainedFolder:
    """A folder that `save_pretrained` wrote, and where and in which precision to load it.

    `start_for` gives the prefix that a model's own starts from.
    """

    folder: Path
    compute: Compute
    device_map: DeviceMap | None = None
    start_for: Callable[[PrefixModel], KVPrefix] | None = None

    @property
    def stored_dtype(self) -> Any:
        """The dtype of the weights on disk."""
        return AutoConfig.from_pretrained(self.folder, local_files_only=True).dtype

    def load(self, dtype: str | None = None) -> PreTrainedModel:
        """The causal language model in evaluation mode, no weight of which takes a gradient.

        `dtype` stands in place of the precision asked for, of a model whose every weight is to
        be trained. Raises PipelineError when the folder does not hold one, or not one to adapt.
        """
        let_go()
        changes = {} if dtype is None else {"dtype": dtype}
        compute = self.compute.model_copy(update=changes)
        model = load_frozen_model(self.folder, compute, self.device_map)
        if dtype is not None and is_quantized(model):
            raise PipelineError(
                "trained_baselines: full_fine_tuning trains every weight, and quantized ones "
                "cannot be trained; leave it out"
            )
        if waits_elsewhere(model):
            raise PipelineError(
                "trained_baselines: a model whose weights wait in memory or on disk cannot be "
                "adapted; leave the baseline out, or give model.device_map devices alone"
            )
        return model

    def start(self, model: PrefixModel) -> KVPrefix:
        """The prefix that a baseline's own starts from, of a baseline that has one to train."""
        assert self.start_for is not None, "only a training asks for a start"
        return self.start_for(model)

    def at(self, folder: Path) -> "PretrainedFolder":
        """Another folder, loaded alike."""
        return replace(self, folder=folder)
