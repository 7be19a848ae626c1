"""Whether the model has the modules that params name."""

import warnings
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.baselines.lora_layers import WithLora
from pipeline.config import Params
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LINEAR = ("Linear", "Conv1D")
"""What LoRA is put beside; GPT-2's are the second."""


def check_modules(params: Params, folder: Path) -> None:
    """Raise PipelineError for a module that the model in `folder` has not.

    The model's layers are made, without weights, only where modules are named. Without PEFT what
    LoRA is put beside is left to the stage, which says that PEFT is missing.
    """
    targets = {
        f"trained_baselines.{name}.target_modules": baseline.target_modules
        for name, baseline in params.trained_baselines.items()
        if isinstance(baseline, WithLora) and not isinstance(baseline.target_modules, str)
    }
    saved = params.prefix.modules_to_save or []
    if not targets and not saved:
        return
    # As in `check_kinds`.
    from pipeline.models.without_weights import models_without_weights

    def models() -> "list[PreTrainedModel]":
        return models_without_weights(folder, params.task.type)

    if saved:
        _refuse_all("prefix.modules_to_save", [_unsaved(model, saved) for model in models()])
    if find_spec("peft") is not None:
        for key, names in targets.items():
            # Each its own, since LoRA's layers stand within it then.
            _refuse_all(key, [_untargeted(model, names) for model in models()])


def _refuse_all(key: str, reasons: Sequence[str | None]) -> None:
    """Raise PipelineError where every class that may load the model has a reason."""
    if reasons and reasons[0] is not None and None not in reasons:
        raise PipelineError(f"{key}: {reasons[0]}")


def _unsaved(model: "PreTrainedModel", names: Iterable[str]) -> str | None:
    modules = [name for name, _ in model.named_modules() if name]
    for name in names:
        if name not in modules:
            own = ", ".join(module for module in modules if "." not in module)
            deepest = max(modules, key=lambda module: module.count("."))
            return (
                f"names '{name}', which is no module of this model; its own are {own}, and those "
                f"inside them, as {deepest}"
            )
    return None


def _untargeted(model: "PreTrainedModel", names: list[str]) -> str | None:
    """Why PEFT does not put LoRA beside modules, or weights of experts, of all these names.

    It says nothing, and trains less, where one of several is of none.
    """
    from peft import LoraConfig

    modules = {name: type(module).__name__ for name, module in model.named_modules()}
    config = LoraConfig(target_modules=names)
    refused = None
    with warnings.catch_warnings(action="ignore"):
        try:
            model.add_adapter(config)
        except ValueError as error:
            refused = " ".join(str(error).split()).partition(". ")[0]
    linear = (module for module, kind in modules.items() if kind in _LINEAR)
    fix = "its linear layers are " + ", ".join(
        dict.fromkeys(module.rpartition(".")[2] for module in linear)
    )
    for name in names:
        # PEFT takes those out that older releases of transformers had as modules.
        left = name in config.target_modules
        if left and not any(f".{module}".endswith(f".{name}") for module in modules):
            return f"names '{name}', as no module of this model is called; {fix}"
    return None if refused is None else f"PEFT refuses {names} for this model ({refused}); {fix}"
