"""Models that a trained baseline adapts: LoRA through PEFT, and full fine-tuning.

LoRA's layers stand inside the transformers model itself, so that training and measuring treat it
as any other model.
"""

import importlib.util
from pathlib import Path

from transformers import AutoConfig, PreTrainedModel

from pipeline.config.compute import Compute
from pipeline.config.trained_baselines import Lora, TrainedBaseline
from pipeline.errors import PipelineError, first_line
from pipeline.models.frozen import load_frozen_model


def adaptable_model(folder: Path, baseline: TrainedBaseline, compute: Compute) -> PreTrainedModel:
    """The pretrained model with the baseline's parameters taking gradients, in float32.

    LoRA starts as the pretrained model itself (its second matrix is zero) with a first matrix of
    torch's current seed.

    Raises:
        PipelineError: when PEFT is missing or refuses the settings.
    """
    if isinstance(baseline, Lora):
        model = load_frozen_model(folder, compute)
        _add_lora(model, baseline)
        return model
    # Steps of a small rate vanish in the rounding of bfloat16 weights.
    wide = compute.model_copy(update={"dtype": "float32"})
    return load_frozen_model(folder, wide).requires_grad_(True)


def save_adapted(
    model: PreTrainedModel, baseline: TrainedBaseline, folder: Path, pretrained: Path
) -> None:
    """Write what is kept beside the pretrained model: a PEFT adapter folder, or a whole model.

    A whole model is written in the dtype of the pretrained one.
    """
    stored_dtype = AutoConfig.from_pretrained(pretrained, local_files_only=True).dtype
    if isinstance(baseline, Lora):
        config = model.peft_config["default"]
        # PEFT keeps the names in a set, whose order is another in every process.
        config.target_modules = sorted(config.target_modules)
    else:
        model = model.to(stored_dtype)
    model.save_pretrained(folder)


def load_adapted(
    pretrained: Path, baseline: TrainedBaseline, folder: Path, compute: Compute
) -> PreTrainedModel:
    """The model that `save_adapted` wrote, in evaluation mode, without gradients."""
    if not isinstance(baseline, Lora):
        return load_frozen_model(folder, compute)
    model = load_frozen_model(pretrained, compute)
    _add_lora(model, baseline)
    from peft import set_peft_model_state_dict
    from peft.utils import load_peft_weights

    weights = load_peft_weights(str(folder), device=str(model.device))
    set_peft_model_state_dict(model, weights)
    return model.requires_grad_(False).eval()


def _add_lora(model: PreTrainedModel, baseline: Lora) -> None:
    if importlib.util.find_spec("peft") is None:
        raise PipelineError(
            "trained_baselines: LoRA needs PEFT, which is not installed; run `pip install "
            "'.[peft]'`, or remove the baseline"
        )
    from peft import LoraConfig

    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=baseline.rank,
        lora_alpha=baseline.alpha,
        lora_dropout=baseline.dropout,
        target_modules=baseline.target_modules,
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
