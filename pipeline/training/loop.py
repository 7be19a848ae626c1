"""The training of one prefix: the optimizer's steps, validation, and the best prefix found."""

import time
from collections.abc import Mapping
from itertools import islice
from typing import Any

import torch
from datasets import Dataset

from pipeline.config.train import TrainParams
from pipeline.data.batching import training_order
from pipeline.errors import DivergedError, StoppedError
from pipeline.loss.causal import TargetLoss
from pipeline.loss.for_model import loss_columns, loss_for
from pipeline.prefix import PrefixModel
from pipeline.progress.bar import Bar
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.compilation import compile_where_it_pays, uncompiled
from pipeline.training.interruption import Interruption, interruptible
from pipeline.training.loss_scale import LossScale
from pipeline.training.optimizer import (
    build_optimizer,
    examples_per_step,
    planned_examples,
    planned_steps,
)
from pipeline.training.progress import (
    Progress,
    TrainingResult,
    random_states,
    restore_random_states,
)
from pipeline.training.trained import trained_state
from pipeline.training.validation import target_loss_of
from pipeline.workspace.timings import LogStep

# Nats per target token; a uniform guess over a vocabulary of a million tokens costs 14.
_EXPLODED = 1000.0


def train_prefix(
    model: PrefixModel,
    train: Dataset,
    validation: Dataset,
    params: TrainParams,
    seed: int,
    log_step: LogStep,
    checkpoints: CheckpointFolder | None = None,
    validation_tokens: int = 4096,
) -> TrainingResult:
    """Train a prefix; `log_step` gets each step's metrics as it happens, speed included.

    Of a model without one, whatever takes a gradient is trained: LoRA's matrices, or all weights.

    With `checkpoints` (of a prefix) the training goes on from the last one, with the same bytes as
    if it had never been interrupted. SIGINT and SIGTERM end it after the step at hand.
    `validation_tokens` bounds the rows times tokens of a validation batch.

    Raises:
        DivergedError: when the loss or the gradient stops being a number of use.
        StoppedError: after a signal.
    """
    torch.manual_seed(seed)
    rows = train.select_columns(loss_columns(train)).to_list()
    steps = planned_steps(params, len(rows))
    if params.warmup_steps >= steps:
        print(
            f"warning: warmup_steps: {params.warmup_steps} is not below the {steps} optimizer "
            "steps of this training, whose rate never comes to learning_rate; lower it"
        )
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer, schedule = build_optimizer(trainable, params, steps)
    order = training_order(
        len(rows), examples_per_step(params), seed, planned_examples(params, len(rows))
    )
    if params.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    result = TrainingResult(trained_state(model))
    progress = Progress(model, optimizer, schedule, result, LossScale.of(model))
    loss_of: TargetLoss = loss_for(model)
    model.train()
    compile_where_it_pays(loss_of, params, steps, rows)
    saved = checkpoints.load() if checkpoints else None
    if saved is not None:
        progress.restore(saved)
        print(f"going on after step {result.step} of {steps}, from the checkpoint")
    else:
        first = _validate(model, validation, validation_tokens)
        _refuse_divergence(0, first, 0.0, params.learning_rate)
        result.history.append({"step": 0, "validation/loss": first})
        log_step(0, {"validation/loss": first})
    order = islice(order, result.step, None)
    best = result.best_loss
    last = result.step if progress.is_finished else steps
    bar = Bar(steps, "train", "step", initial=result.step)
    with interruptible() as asked, bar:
        for step in range(result.step + 1, last + 1):
            began = time.perf_counter()
            states = random_states(model.device)
            rate = float(schedule.get_last_lr()[0])
            examples = [rows[i] for i in next(order)]
            loss, tokens = _accumulate(progress, loss_of, examples, params.batch_size)
            while not progress.loss_scale.settle(loss, trainable):
                optimizer.zero_grad()
                restore_random_states(states, model.device)
                loss, tokens = _accumulate(progress, loss_of, examples, params.batch_size)
            limit = params.max_grad_norm or float("inf")
            norm = float(torch.nn.utils.clip_grad_norm_(trainable, limit))
            try:
                _refuse_divergence(step, loss, norm, rate)
            except DivergedError as error:
                # The parameters are still those of the step before.
                if checkpoints is None:
                    raise
                kept = checkpoints.keep_last_good(progress.checkpoint(states), result.prefix)
                raise DivergedError(f"{error}; {kept}") from error
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            row = {"step": step, "train/loss": loss}
            row |= {"train/learning_rate": rate, "train/gradient_norm": norm}
            speed = tokens / (time.perf_counter() - began)
            if step == steps or (params.eval_every_steps and step % params.eval_every_steps == 0):
                row["validation/loss"] = _validate(model, validation, validation_tokens)
                if row["validation/loss"] < best:
                    best, result.best_step, progress.waited = row["validation/loss"], step, 0
                    result.prefix = trained_state(model)
                else:
                    progress.waited += 1
            result.history.append(row)
            log_step(step, {**_measured(row), "train/tokens_per_second": speed})
            bar.update(note=f"loss {loss:.3f}, best {best:.3f}, {speed:.0f} tokens/s")
            patience = params.early_stopping_patience
            result.stopped_early = patience is not None and progress.waited >= patience
            progress.is_finished = step == steps or result.stopped_early
            if checkpoints and (progress.is_finished or checkpoints.is_due(step)):
                checkpoints.save(progress.checkpoint(random_states(model.device)))
            if progress.is_finished:
                break
            _stop_if_asked(asked, progress, steps, checkpoints)
    return result


def _stop_if_asked(
    asked: Interruption, progress: Progress, steps: int, checkpoints: CheckpointFolder | None
) -> None:
    if asked.signal_number is None:
        return
    states = random_states(progress.model.device)
    kept = checkpoints is not None and checkpoints.save(progress.checkpoint(states))
    where = "goes on from there" if kept else "starts this variant again"
    raise StoppedError(
        f"stopped by {asked.name} after step {progress.result.step} of {steps}; "
        f"`dvc repro` {where}",
        asked.signal_number,
    )


def _accumulate(
    progress: Progress,
    loss_of: TargetLoss,
    examples: list[dict[str, Any]],
    batch_size: int,
) -> tuple[float, int]:
    """Add up the gradient of the mean loss over all target tokens of one optimizer step.

    It takes `batch_size` examples at once; the gradient is scaled as progress says. Returns that
    loss, and the tokens of the step.
    """
    progress.model.train()
    scale = progress.loss_scale.value
    tokens = sum(len(example["input_ids"]) for example in examples)
    targets = tokens - sum(example["target_start"] for example in examples)
    total = 0.0
    for start in range(0, len(examples), batch_size):
        for part in loss_of.parts(examples[start : start + batch_size]):
            loss = loss_of(part, scale / targets)
            loss.backward()
            total += loss.item() / scale
    return total, tokens


def _validate(model: PrefixModel, validation: Dataset, max_tokens: int) -> float:
    model.eval()
    with uncompiled():
        return target_loss_of(model, validation, max_tokens)


def _refuse_divergence(step: int, loss: float, norm: float, rate: float) -> None:
    if abs(loss) < _EXPLODED and norm < float("inf"):
        return
    if step == 0:
        raise DivergedError(
            f"the loss is {loss} before any training; start from another initialisation (a lower "
            "scale), or compute in another train.dtype"
        )
    raise DivergedError(
        f"train.learning_rate: at step {step} the loss is {loss} and the gradient's norm "
        f"{norm} with a rate of {rate:g}; lower it, or give more warmup_steps"
    )


def _measured(row: Mapping[str, float]) -> dict[str, float]:
    return {key: value for key, value in row.items() if key != "step"}
