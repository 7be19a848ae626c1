"""One trial in a process that has the frozen model: its line of results."""

import contextlib
import io
import os
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from statistics import median

import torch
from datasets import concatenate_datasets
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from benchmarks.quality.methods import trained
from benchmarks.quality.results import Line
from benchmarks.quality.trials import Trial
from pipeline.data.beginning import following
from pipeline.data.splits import load_split
from pipeline.data.task_type import CAUSAL_LM, task_of
from pipeline.evaluation.measure import measure_split
from pipeline.evaluation.metrics import scores
from pipeline.models.shared import load_for_task
from pipeline.models.tokenizer import load_tokenizer
from pipeline.orchestration.starter import end_with_starter
from pipeline.prefix import PrefixModel
from pipeline.prefix.packed.backends import use_backend
from pipeline.training.validation import target_loss_of
from pipeline.workspace import paths


def begin(folder: Path, trial: Trial) -> None:
    """Make this process ready for trials in `folder`: the model of `trial` is loaded."""
    end_with_starter()
    os.chdir(folder)
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    use_backend(trial.params.hardware.attention)
    load_for_task(paths.MODEL, trial.params.train, CAUSAL_LM)


def is_ready() -> bool:
    """Is answered once `begin` is over."""
    return True


def run(trial: Trial) -> Line:
    """A trial's line; what it says meanwhile is shown nowhere, unless it fails.

    Keys: `trial` (its identity), `device` (its name), `steps` and `best_step`, `parameters` that
    were trained, `seconds` of training with its validations, `step_seconds` (median of those
    without), `validation` (pairs of a step and its loss), `train` (each step's loss), `scores` by
    split, and `total_seconds`. Of a failed one `trial` and `error`.
    """
    said = io.StringIO()
    began = time.perf_counter()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            line = _run(trial)
    except Exception as error:  # the others go on
        told = " ".join(str(error).split())[:500]
        return {"trial": trial.identity, "error": f"{type(error).__name__}: {told}"}
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return {**line, "total_seconds": round(time.perf_counter() - began, 2)}


def _run(trial: Trial) -> Line:
    frozen, _ = load_for_task(paths.MODEL, trial.params.train, CAUSAL_LM)
    clock = _Clock()
    began = time.perf_counter()
    with trained(trial, frozen, clock.log_step) as found:
        seconds = time.perf_counter() - began
        history = found.result.history
        return {
            "trial": trial.identity,
            "device": _device_name(frozen.device),
            "steps": found.result.step,
            "best_step": found.result.best_step,
            "parameters": found.parameters,
            "seconds": round(seconds, 3),
            "step_seconds": clock.step_seconds,
            "validation": [
                [row["step"], round(row["validation/loss"], 5)]
                for row in history
                if "validation/loss" in row
            ],
            "train": [round(row["train/loss"], 4) for row in history if "train/loss" in row],
            "scores": _scores(trial, found.model),
        }


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


class _Clock:
    """When steps ended."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self._steps: list[float] = []

    def log_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Note the time since the last one; a validation's is none of the step."""
        now = time.perf_counter()
        if step > 1 and "validation/loss" not in metrics:
            self._steps.append(now - self._last)
        self._last = now

    @property
    def step_seconds(self) -> float | None:
        """The median; None of trainings of a step or two."""
        return round(median(self._steps), 5) if self._steps else None


def _scores(trial: Trial, model: PrefixModel) -> dict[str, dict[str, float]]:
    """What is measured of each split of `evaluate`; without text metrics the loss alone."""
    params, tokens = trial.params.evaluate, trial.params.memory.max_tokens_per_batch
    folder = paths.TOKENIZED / "splits"
    splits = {name: load_split(folder, name) for name in params.splits}
    if not params.metrics:
        return {
            name: {"loss": target_loss_of(model, following(split, model.begins_text), tokens)}
            for name, split in splits.items()
        }
    # Together, so that a token of all of them is one pass.
    whole = following(concatenate_datasets(list(splits.values())), model.begins_text)
    end = task_of(folder).end
    rows, _ = measure_split(model, _tokenizer(), params, "all", whole, tokens, end)
    found: dict[str, dict[str, float]] = {}
    at = 0
    for name, split in splits.items():
        found[name] = scores(rows[at : at + len(split)], params.metrics)
        at += len(split)
    return found


@cache
def _tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer(paths.MODEL)
