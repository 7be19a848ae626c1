"""LoRA's matrices within a transformers model, by PEFT: what its baselines have in common.

The layers stand inside the transformers model itself, so that training and measuring treat it as
any other model.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from pipeline.baselines.trained import Rate, TrainedBaseline
from pipeline.baselines.with_peft import refuse_without_peft
from pipeline.errors import PipelineError, first_line
from pipeline.schema.section import Count

if TYPE_CHECKING:
    from torch.nn import Parameter
    from transformers import PreTrainedModel

    from pipeline.prefix import PrefixModel


class WithLora(TrainedBaseline):
    """Low-rank updates of linear layers (Hu et al. 2021, arXiv 2106.09685), by PEFT."""

    learning_rate: Rate = 2e-4
    rank: Count = 8
    alpha: Count = 16
    target_modules: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] = "all-linear"

    def merge(self, model: "PrefixModel") -> bool:
        """Add the updates to the weights that they are of, and take their layers away."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        frozen = model.frozen_model
        if getattr(frozen, "is_quantized", False):
            # What was rounded to a few bits would be rounded again.
            return False
        for name, layer in [*frozen.named_modules()]:
            if isinstance(layer, BaseTunerLayer):
                layer.merge()
                frozen.set_submodule(name, layer.get_base_layer())
        return True

    def _add_matrices(self, model: "PreTrainedModel", dropout: float = 0.0) -> None:
        """Put the matrices beside the linear layers, in float32; the second of each is zero.

        That is PEFT's own default too: small updates of half-precision matrices round away.

        Raises PipelineError when PEFT is missing or refuses the settings.
        """
        refuse_without_peft("LoRA")
        from peft import LoraConfig

        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=dropout,
            target_modules=self.target_modules,
        )
        try:
            model.add_adapter(config)
        except ValueError as error:
            raise PipelineError(
                f"trained_baselines: PEFT refuses LoRA's settings: {first_line(error)}"
            ) from error
        for matrix in _matrices(model):
            matrix.data = matrix.data.float()

    def _read_matrices(self, model: "PreTrainedModel", folder: Path) -> None:
        """Take the matrices that `_write_matrices` wrote."""
        from peft import set_peft_model_state_dict
        from peft.utils import load_peft_weights

        weights = load_peft_weights(str(folder), device=str(model.device))
        set_peft_model_state_dict(model, weights)

    def _write_matrices(self, model: "PreTrainedModel", folder: Path) -> None:
        """Write a PEFT adapter folder."""
        config = model.peft_config["default"]
        # PEFT keeps the names in a set, whose order is another in every process.
        config.target_modules = sorted(config.target_modules)
        model.save_pretrained(folder)


def train_matrices(model: "PreTrainedModel") -> None:
    """Let LoRA's matrices take gradients, and nothing else of a model."""
    model.requires_grad_(False)
    for matrix in _matrices(model):
        matrix.requires_grad_(True)


def _matrices(model: "PreTrainedModel") -> "list[Parameter]":
    return [parameter for name, parameter in model.named_parameters() if "lora_" in name]
