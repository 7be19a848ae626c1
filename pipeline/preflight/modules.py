"""Whether the model has the modules that params name."""

from collections.abc import Iterable
from pathlib import Path

from pipeline.baselines.lora_layers import WithLora
from pipeline.config import Params
from pipeline.errors import PipelineError

_LINEAR = ("Linear", "Conv1D")
"""What LoRA is put beside; GPT-2's are the second."""


def check_modules(params: Params, folder: Path) -> None:
    """Raise PipelineError for a module that the model in `folder` has not.

    The model's layers are made, without weights, only where modules are named. PEFT trains less,
    and says nothing, where one of several names is of no module.
    """
    targets = {
        f"trained_baselines.{name}.target_modules": baseline.target_modules
        for name, baseline in params.trained_baselines.items()
        if isinstance(baseline, WithLora) and baseline.target_modules != "all-linear"
    }
    saved = params.prefix.modules_to_save or []
    if not targets and not saved:
        return
    # As in `check_kinds`.
    from pipeline.models.modules import modules_of_model

    modules = modules_of_model(folder, params.task.type)
    if modules is None:
        return
    for name in saved:
        if name not in modules:
            own = ", ".join(module for module in modules if "." not in module)
            raise PipelineError(
                f"prefix.modules_to_save: names '{name}', which is no module of this model; its "
                f"own are {own}, and those inside them, as {_deepest(modules)}"
            )
    for key, names in targets.items():
        for name in names:
            # As PEFT matches them.
            if name not in modules and not any(module.endswith(f".{name}") for module in modules):
                linear = (module for module, kind in modules.items() if kind in _LINEAR)
                ends = ", ".join(dict.fromkeys(module.rpartition(".")[2] for module in linear))
                raise PipelineError(
                    f"{key}: names '{name}', as no module of this model is called; its linear "
                    f"layers are {ends}"
                )


def _deepest(modules: Iterable[str]) -> str:
    return max(modules, key=lambda name: name.count("."))
