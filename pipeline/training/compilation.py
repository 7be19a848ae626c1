"""Compiling the frozen model's layers, where a training is long enough to earn the time back."""

import shutil
import sysconfig
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from transformers import PreTrainedModel

from pipeline.config.train import TrainParams
from pipeline.data.batching import Example
from pipeline.errors import PipelineError
from pipeline.loss.causal import TargetLoss
from pipeline.prefix.architecture.devices import is_spread
from pipeline.prefix.packed.logits import compile_layers

# Compiling costs some 40 s on two cores, once a training; a step of 600 tokens gets some 0.07 s
# shorter.
_STEPS_THAT_PAY = 600
_COMPILERS = ("g++", "c++", "clang++")


def compile_where_it_pays(
    loss_of: TargetLoss, params: TrainParams, steps: int, rows: Sequence[Example]
) -> bool:
    """Compile the frozen model's layers as `train.compile` says; returns whether it was done.

    `auto` compiles trainings of 600 steps and more in packed rows, without gradient
    checkpointing, where the CPU's compiler works (a GPU needs none). It happens on the first of
    `rows`, all that are trained on, not on the first batch: generated code may depend on the size
    it first meets, and has to be the same for a training that is taken up in the middle.

    Raises:
        PipelineError: for `compile: true` where it cannot be done.
    """
    longest = max(len(row["input_ids"]) for row in rows)
    reason = loss_of.model.why_not_packed(tokens=longest)
    reason = reason or _why_not_whole(loss_of.model.frozen_model)
    if loss_of.model.device.type == "cpu":
        reason = reason or missing_compiler()
    if params.compile is True and reason is not None:
        raise PipelineError(f"train.compile: {reason}; set it to auto or false")
    short = steps < _STEPS_THAT_PAY or params.gradient_checkpointing
    if params.compile is False or reason is not None or (params.compile == "auto" and short):
        return False
    compile_layers(loss_of.model.frozen_model)
    loss_of(rows[: params.batch_size]).backward()
    loss_of.model.zero_grad()
    return True


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
