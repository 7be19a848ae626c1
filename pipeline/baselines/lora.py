"""`lora`: low-rank updates of linear layers, by PEFT.

LoRA's layers stand inside the transformers model itself, so that training and measuring treat it
as any other model.
"""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from pipeline.baselines.context import Pretrained
from pipeline.baselines.trained import TrainedBaseline
from pipeline.errors import PipelineError, first_line
from pipeline.schema.learning_rate import LearningRate, Rate, RateSearch
from pipeline.schema.section import Count, Fraction

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LoraRates(RateSearch):
    """Matrices of which one starts at zero: a tenth of what keys and values are moved by."""

    lowest: Rate = 2e-4
    highest: Rate = 1e-2


class Lora(TrainedBaseline):
    """Low-rank updates of linear layers (Hu et al. 2021, arXiv 2106.09685), by PEFT."""

    type: Literal["lora"]
    learning_rate: LearningRate = 2e-4
    learning_rate_search: LoraRates = LoraRates()
    rank: Count = 8
    alpha: Count = 16
    dropout: Fraction = 0.0
    target_modules: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] = "all-linear"

    def adaptable(self, pretrained: Pretrained) -> "PreTrainedModel":
        """The pretrained model with LoRA's matrices taking gradients, in float32.

        It starts as the pretrained model itself (the second matrix is zero) with a first matrix of
        torch's current seed.

        Raises:
            PipelineError: when PEFT is missing or refuses the settings.
        """
        model = pretrained.load()
        self._add_layers(model)
        return model

    def save(self, model: "PreTrainedModel", folder: Path, pretrained: Pretrained) -> None:
        """Write a PEFT adapter folder."""
        config = model.peft_config["default"]
        # PEFT keeps the names in a set, whose order is another in every process.
        config.target_modules = sorted(config.target_modules)
        model.save_pretrained(folder)

    def load(self, folder: Path, pretrained: Pretrained) -> "PreTrainedModel":
        """The pretrained model with the adapter's matrices, in evaluation mode."""
        # First, since it says in one sentence when PEFT is missing.
        model = self.adaptable(pretrained)
        from peft import set_peft_model_state_dict
        from peft.utils import load_peft_weights

        weights = load_peft_weights(str(folder), device=str(model.device))
        set_peft_model_state_dict(model, weights)
        return model.requires_grad_(False).eval()

    def _add_layers(self, model: "PreTrainedModel") -> None:
        if importlib.util.find_spec("peft") is None:
            raise PipelineError(
                "trained_baselines: LoRA needs PEFT, which is not installed; run `pip install "
                "'.[peft]'`, or remove the baseline"
            )
        from peft import LoraConfig

        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self.target_modules,
        )
        try:
            model.add_adapter(config)
        except ValueError as error:
            raise PipelineError(
                f"trained_baselines: PEFT refuses LoRA's settings: {first_line(error)}"
            ) from error
        for parameter in model.parameters():
            if parameter.requires_grad:
                # PEFT's own default too: small updates of half-precision matrices round away.
                parameter.data = parameter.data.float()
