"""Compiling the frozen model's layers, where a training is long enough to earn the time back."""

import shutil
import sysconfig
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from transformers import AttentionInterface, PreTrainedModel

from pipeline.config.train import TrainParams
from pipeline.data.batching import Example
from pipeline.data.rows import TokenizedRows
from pipeline.errors import PipelineError
from pipeline.errors.memory import is_out_of_memory
from pipeline.loss.causal import TargetLoss
from pipeline.prefix import PrefixError
from pipeline.prefix.architecture.devices import is_spread
from pipeline.prefix.packed.logits import NAMES, attend

# Compiling costs some 40 s on two cores, once a training; a step of 600 tokens gets some 0.07 s
# shorter.
_STEPS_THAT_PAY = 600
_COMPILERS = ("g++", "c++", "clang++")


def compile_where_it_pays(
    loss_of: TargetLoss, params: TrainParams, steps: int, rows: TokenizedRows
) -> bool:
    """Compile the frozen model's layers as `train.compile` says; returns whether it was done.

    `auto` compiles trainings of 600 steps and more in packed rows, without gradient
    checkpointing; where a compiler fails, the layers run as they are, and a sentence says why. It
    happens on the first of `rows`, all that are trained on, not on the first batch: generated code
    may depend on the size it first meets, and has to be the same for a training that is taken up
    in the middle, or that follows another in its process.

    Raises:
        PipelineError: for `compile: true` where it cannot be done.
    """
    longest = int(rows.tokens.max())
    reason = loss_of.model.why_not_packed(tokens=longest)
    reason = reason or _why_not_whole(loss_of.model.frozen_model)
    if loss_of.model.device.type == "cpu":
        reason = reason or missing_compiler()
    if params.compile is True and reason is not None:
        raise PipelineError(f"train.compile: {reason}; set it to auto or false")
    short = steps < _STEPS_THAT_PAY or params.gradient_checkpointing
    if params.compile is False or reason is not None or (params.compile == "auto" and short):
        return False
    if are_layers_compiled(loss_of.model.frozen_model):
        # By another training that shares the model and its rows.
        return True
    failure = _failure(loss_of, rows[: params.batch_size])
    if failure is None:
        return True
    if params.compile is True:
        raise PipelineError(f"train.compile: {failure}; set it to auto or false")
    print(f"warning: {failure}; the layers run uncompiled, more slowly")
    return False


def _failure(loss_of: TargetLoss, rows: Sequence[Example]) -> str | None:
    """Compile on a batch, forward and backward; why it failed, a clause, with nothing compiled."""
    model, device = loss_of.model, loss_of.model.device
    devices = [device] if device.type == "cuda" else []
    torch.compiler.reset()
    try:
        # An earlier training of this process may have let failures pass, as below.
        with torch.random.fork_rng(devices), torch._dynamo.config.patch(suppress_errors=False):
            compile_layers(model.frozen_model)
            loss_of(rows).backward()
    except Exception as error:  # dynamo, inductor, Triton, g++ raise whatever they like
        uncompile_layers(model.frozen_model)
        if isinstance(error, PrefixError) or is_out_of_memory(error):
            raise
        # The first line names the backend, the second the error.
        said = " ".join(str(error).strip().splitlines()[:2])[:300]
        return f"torch.compile fails on this machine ({type(error).__name__}: {said})"
    finally:
        model.zero_grad()
    # It works. Where it should fail for a later batch, that runs uncompiled, and training goes on.
    torch._dynamo.config.suppress_errors = True
    return None


def _why_not_whole(frozen_model: PreTrainedModel) -> str | None:
    """Why the layers of a model that is no longer as transformers made it stay uncompiled."""
    if is_spread(frozen_model):
        return "layers that model.device_map spreads are not compiled"
    if getattr(frozen_model, "is_quantized", False):
        return "quantized layers are not compiled"
    return None


def missing_compiler() -> str | None:
    """Why torch could not compile for this machine's CPU; None if it can."""
    if not any(map(shutil.which, _COMPILERS)):
        return "there is no C++ compiler (g++ or clang++) on this machine"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "Python's headers (Python.h) are not installed on this machine"
    return None


def uncompiled() -> AbstractContextManager[None]:
    """Layers run as they are, for what is not training: nothing is compiled for it."""
    stance: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return stance


def compile_layers(frozen_model: PreTrainedModel) -> None:
    """Let torch compile each decoder layer for packed rows, attention itself left as it is.

    Norms, rotary embedding and activations become one pass each; the layers share one compiled
    graph, made at their first call. `torch.compiler.set_stance("force_eager")` runs them as before.

    Raises:
        PrefixError: when transformers does not name the model's layers.
    """
    layers = _layers(frozen_model)
    if not layers:
        raise PrefixError(f"{type(frozen_model).__name__} does not name its layers; do not compile")
    for name in NAMES:
        AttentionInterface.register(name, torch.compiler.disable(attend))
    for layer in layers:
        layer.compile(dynamic=True)


def are_layers_compiled(frozen_model: PreTrainedModel) -> bool:
    """Whether `compile_layers` was called, and not undone since."""
    return any(layer._compiled_call_impl is not None for layer in _layers(frozen_model))


def uncompile_layers(frozen_model: PreTrainedModel) -> None:
    """Have each layer run as it is again; nothing where none was compiled."""
    for layer in _layers(frozen_model):
        # Not None of its own: a layer is as it was loaded, and its model is kept for other stages.
        vars(layer).pop("_compiled_call_impl", None)
    for name in NAMES:
        AttentionInterface.register(name, attend)


def _layers(frozen_model: PreTrainedModel) -> list[torch.nn.Module]:
    names = set(getattr(frozen_model, "_no_split_modules", None) or ())
    return [module for module in frozen_model.modules() if type(module).__name__ in names]
