"""The training of one prefix: the optimizer's steps, validation, and the best prefix found."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.batching import training_order
from pipeline.config.training import TrainParams
from pipeline.errors import PipelineError
from pipeline.target_loss import TargetLoss
from pipeline.task_loss import loss_columns, loss_for
from pipeline.training.compilation import compile_where_it_pays, uncompiled
from pipeline.training.optimizer import build_optimizer, planned_steps
from pipeline.training.validation import target_loss_of

if TYPE_CHECKING:
    from datasets import Dataset

    from pipeline.prefix import KVPrefix, PrefixModel

LogStep = Callable[[int, Mapping[str, float]], None]

# Rows times tokens of a validation batch; without gradients this stays below a training batch.
_VALIDATION_TOKENS = 4096


@dataclass
class TrainingResult:
    """What training leaves: the prefix with the lowest validation loss, and its history.

    `history` has a row an optimizer step with the keys `step`, `train/loss` (nats per target
    token), `train/learning_rate`, `train/gradient_norm` (before clipping) and, where measured,
    `validation/loss`; step 0 is the start, before any training.
    """

    prefix: "KVPrefix"
    history: list[dict[str, float]] = field(default_factory=list)
    best_step: int = 0
    stopped_early: bool = False

    def metrics(self) -> dict[str, float]:
        """The training in a few numbers, all of them the same on every run."""
        measured = {
            int(row["step"]): row["validation/loss"]
            for row in self.history
            if "validation/loss" in row
        }
        return {
            "train/steps": self.history[-1]["step"],
            "train/best_step": self.best_step,
            "validation/initial_loss": measured[0],
            "validation/best_loss": measured[self.best_step],
        }


def train_prefix(
    model: "PrefixModel",
    train: "Dataset",
    validation: "Dataset",
    params: TrainParams,
    seed: int,
    log_step: LogStep,
) -> TrainingResult:
    """Train a prefix; `log_step` gets each step's metrics as it happens, speed included.

    Raises:
        PipelineError: when the loss or the gradient stops being a finite number.
    """
    import torch
    from tqdm import tqdm

    torch.manual_seed(seed)
    rows = train.select_columns(loss_columns(train)).to_list()
    steps = planned_steps(params, len(rows))
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer, schedule = build_optimizer(trainable, params, steps)
    order = training_order(len(rows), params.batch_size, seed)
    if params.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    result = TrainingResult(model.kv_prefix())
    loss_of: TargetLoss = loss_for(model)
    model.train()
    compile_where_it_pays(loss_of, params, steps, rows[: params.batch_size])
    best = _validate(model, validation)
    result.history.append({"step": 0, "validation/loss": best})
    log_step(0, {"validation/loss": best})
    waited = 0
    with tqdm(total=steps, desc="train", unit="step") as bar:
        for step in range(1, steps + 1):
            began = time.perf_counter()
            rate = float(schedule.get_last_lr()[0])
            indices = [next(order) for _ in range(params.gradient_accumulation_steps)]
            loss, tokens = _accumulate(
                model, loss_of, [[rows[i] for i in part] for part in indices]
            )
            limit = params.max_grad_norm or float("inf")
            norm = float(torch.nn.utils.clip_grad_norm_(trainable, limit))
            _refuse_divergence(step, loss, norm, rate)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            row = {"step": step, "train/loss": loss}
            row |= {"train/learning_rate": rate, "train/gradient_norm": norm}
            speed = tokens / (time.perf_counter() - began)
            if step == steps or (params.eval_every_steps and step % params.eval_every_steps == 0):
                row["validation/loss"] = _validate(model, validation)
                if row["validation/loss"] < best:
                    best, result.best_step, waited = row["validation/loss"], step, 0
                    result.prefix = model.kv_prefix()
                else:
                    waited += 1
            result.history.append(row)
            log_step(step, {**_measured(row), "train/tokens_per_second": speed})
            bar.update()
            bar.set_postfix_str(f"loss {loss:.3f}, best {best:.3f}, {speed:.0f} tokens/s")
            if params.early_stopping_patience and waited >= params.early_stopping_patience:
                result.stopped_early = True
                break
    return result


def _accumulate(
    model: "PrefixModel", loss_of: TargetLoss, batches: list[list[dict[str, Any]]]
) -> tuple[float, int]:
    """Add up the gradient of the mean loss over all target tokens of one optimizer step.

    Returns that loss, and the tokens of the step.
    """
    model.train()
    examples = [example for batch in batches for example in batch]
    tokens = sum(len(example["input_ids"]) for example in examples)
    targets = tokens - sum(example["target_start"] for example in examples)
    total = 0.0
    for batch in batches:
        for part in loss_of.parts(batch):
            loss = loss_of(part) / targets
            loss.backward()
            total += loss.item()
    return total, tokens


def _validate(model: "PrefixModel", validation: "Dataset") -> float:
    model.eval()
    length = model.prefix_config.num_virtual_tokens
    with uncompiled():
        return target_loss_of(model, validation, _VALIDATION_TOKENS, length)


def _refuse_divergence(step: int, loss: float, norm: float, rate: float) -> None:
    if not (abs(loss) < float("inf") and norm < float("inf")):
        raise PipelineError(
            f"train.learning_rate: at step {step} the loss is {loss} and the gradient's norm "
            f"{norm} with a rate of {rate:g}; lower it, or give more warmup_steps"
        )


def _measured(row: Mapping[str, float]) -> dict[str, float]:
    return {key: value for key, value in row.items() if key != "step"}
