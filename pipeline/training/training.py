"""One training, an optimizer step at a time: several can advance in turn on one frozen model."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import islice

import torch
from datasets import Dataset

from pipeline.config.train import TrainParams
from pipeline.data.batching import training_order
from pipeline.data.rows import TokenizedRows, rows_of
from pipeline.distributed.ranks import ALONE, Ranks
from pipeline.distributed.sharding import is_sharded
from pipeline.errors import DivergedError
from pipeline.loss.causal import TargetLoss
from pipeline.loss.for_model import loss_columns, loss_for
from pipeline.prefix import PrefixModel
from pipeline.training.apart import tell_if_apart
from pipeline.training.averaging import Average
from pipeline.training.blocks import blocks_of
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.compilation import compile_where_it_pays, uncompiled
from pipeline.training.divergence import refuse_divergence
from pipeline.training.gradient import Gradient
from pipeline.training.interruption import Interruption
from pipeline.training.keeping import Keeping
from pipeline.training.left_out import NOTHING, Group, LeftOut
from pipeline.training.loss_scale import LossScale
from pipeline.training.optimizer import (
    Apart,
    build_optimizer,
    examples_per_step,
    planned_examples,
    planned_steps,
)
from pipeline.training.progress import MEASURED, Progress, TrainingResult
from pipeline.training.random_numbers import RandomNumbers, random_states, restore_random_states
from pipeline.training.rates import rate_keys, state_rate
from pipeline.training.step import ModelOfStep, Step
from pipeline.training.trained import trained_state
from pipeline.training.validation import losses_of
from pipeline.workspace.timings import LogStep


class Training:
    """The training of one prefix (see `train_prefix`), which `train_all` advances.

    `begin` once; then `choose`, `compute`, `settle`, `update`, `record` and `keep` of one step
    after the other until `is_finished`, all of them within `drawing`. Between two steps everything
    is in `progress`, and its random generators stand where the next one begins.
    """

    def __init__(
        self,
        model: PrefixModel,
        train: Dataset | TokenizedRows,
        validation: Dataset | TokenizedRows,
        params: TrainParams,
        seed: int,
        log_step: LogStep,
        checkpoints: CheckpointFolder | None = None,
        validation_tokens: int = 4096,
        say: Callable[[str], None] = print,
        ranks: Ranks = ALONE,
        beside: ModelOfStep | None = None,
        left_out: LeftOut = NOTHING,
        apart: Apart | None = None,
    ) -> None:
        torch.manual_seed(seed)
        self._seed = seed
        self._random = RandomNumbers(model.device)
        self.model, self.validation, self.params = model, validation, params
        self.checkpoints, self.ranks = checkpoints, ranks
        self._log_step, self._validation_tokens, self._say = log_step, validation_tokens, say
        named = ["id"] if left_out.demonstrations else []
        self._rows = rows_of(train, [*loss_columns(train), *named])
        self.steps = planned_steps(params, len(self._rows))
        """Optimizer steps of the whole training, unless it is stopped early."""
        if params.warmup_steps >= self.steps:
            say(
                f"warning: warmup_steps: {params.warmup_steps} is not below the {self.steps} "
                "optimizer steps of this training, whose rate never comes to learning_rate; "
                "lower it"
            )
        self.trainable = [p for p in model.parameters() if p.requires_grad]
        # Machines may differ in the last digit of what they start from, and rates follow the start:
        # it is the first's before anything is derived from it.
        ranks.copy_from_first([*self.trainable, *model.encoder.buffers()])
        # Of the frozen model's own states, which each process has computed for itself.
        rate = ranks.from_first(state_rate(model, params))
        if rate is not None:
            say(f"initial states train at a rate of {rate:g}")
        # What trains apart does so at the one rate that it is given.
        blocks = [] if apart else blocks_of(model.encoder)
        others, own_rate = apart or (model.state_parameters, rate)
        optimizer, schedule = build_optimizer(
            self.trainable, params, self.steps, others, own_rate, blocks
        )
        self._order = training_order(
            len(self._rows),
            examples_per_step(params),
            seed,
            planned_examples(params, len(self._rows)),
        )
        if params.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        result = TrainingResult(trained_state(model), params.peak_rate)
        how = params.averaging
        average = None if how is None else Average(self.trainable, how, self.steps)
        scale = LossScale.of(model)
        self.progress = Progress(model, optimizer, schedule, result, scale, average)
        self._keeping = Keeping(checkpoints, self.progress)
        self.loss_of: TargetLoss = loss_for(model, params.objective.distilled)
        self._gradient = Gradient(self.loss_of, params.batch_size, ranks, beside, left_out)
        self.seconds = 0.0
        """What it has taken, its share of the steps that were computed with others'."""
        self._best = float("inf")

    @property
    def result(self) -> TrainingResult:
        """What it has come to."""
        return self.progress.result

    @property
    def is_finished(self) -> bool:
        """Whether no step is left."""
        return self.progress.is_finished or self.result.step >= self.steps

    def drawing(self) -> AbstractContextManager[None]:
        """Within it torch's random generators are this training's own, whoever takes turns."""
        return self._random.drawn()

    def begin(self) -> None:
        """Go on from the last checkpoint, or measure the start.

        Raises DivergedError when the loss of the start is no number of use.
        """
        self.model.train()
        if not is_sharded(self.model.frozen_model):
            compile_where_it_pays(self.loss_of, self.params, self.steps, self._rows)
        if self.ranks.is_first:
            tell_if_apart(self.model, self._rows.tokens, self.params.batch_size, self._seed)
        saved = self.ranks.from_first(self.checkpoints.load() if self.checkpoints else None)
        if saved is not None:
            self.progress.restore(saved)
            self._say(
                f"going on after step {self.result.step} of {self.steps}, from the checkpoint"
            )
        else:
            first = self._validate()
            refuse_divergence(0, first["validation/loss"], 0.0, self.params.peak_rate)
            self.result.history.append({"step": 0, **first})
            self._log_step(0, first)
        self._order = islice(self._order, self.result.step, None)
        self._best = self.result.best_loss

    def choose(self) -> Step:
        """The next step's examples, in the order of the seed."""
        began = time.perf_counter()
        states = random_states(self.model.device)
        rate = float(self.progress.schedule.get_last_lr()[0])
        examples = [self._rows[i] for i in next(self._order)]
        self.model.train()
        return Step(self.result.step + 1, began, states, rate, examples)

    def compute(self, step: Step) -> None:
        """Add up the gradient of a step, scaled as progress says."""
        self._gradient.add_up(step, self.progress.loss_scale.value, self.trainable)

    def parts(self, step: Step) -> Iterator[list[Group]]:
        """A step's examples as one call takes them after the other."""
        return (groups for groups, _ in self._gradient.parts(step))

    def settle(self, step: Step) -> None:
        """Undo the gradients' scale, computing those that overflowed again, and clip them."""
        while not self.progress.loss_scale.settle(step.loss, self.trainable):
            self.progress.optimizer.zero_grad()
            restore_random_states(step.states, self.model.device)
            self.compute(step)
        limit = self.params.max_grad_norm or float("inf")
        step.gradient_norm = float(torch.nn.utils.clip_grad_norm_(self.trainable, limit))

    def update(self, step: Step) -> None:
        """Let the optimizer use the gradients.

        Raises DivergedError when they, or the loss, are no numbers of use; what the training had
        come to before is kept beside its checkpoint.
        """
        try:
            keys = rate_keys(self.model, self.params, self.result.search is not None)
            refuse_divergence(step.number, step.loss, step.gradient_norm, step.rate, keys)
        except DivergedError as error:
            self._keeping.give_up(error, step)
        self.progress.advance(step.number)
        step.seconds = time.perf_counter() - step.began

    def record(self, step: Step) -> str:
        """Validate where that is due, and log; returns the step in words."""
        params, result, progress = self.params, self.result, self.progress
        row = {"step": step.number, "train/loss": step.loss}
        row |= {"train/learning_rate": step.rate, "train/gradient_norm": step.gradient_norm}
        speed = step.tokens / step.seconds
        is_last = step.number == self.steps
        if is_last or (params.eval_every_steps and step.number % params.eval_every_steps == 0):
            with progress.averaged():
                row |= self._validate()
                if row["validation/loss"] < self._best:
                    self._best, result.best_step = row["validation/loss"], step.number
                    progress.waited = 0
                    result.prefix = trained_state(self.model)
                else:
                    progress.waited += 1
        result.history.append(row)
        measured = {key: value for key, value in row.items() if key != "step"}
        self._log_step(step.number, {**measured, "train/tokens_per_second": speed})
        patience = params.early_stopping_patience
        result.stopped_early = patience is not None and progress.waited >= patience
        progress.is_finished = is_last or result.stopped_early
        return f"loss {step.loss:.3f}, best {self._best:.3f}, {speed:.0f} tokens/s"

    def keep(self) -> None:
        """Save a checkpoint where one is due: now and then aside the training, and at the end."""
        self._keeping.save_where_due(self.is_finished)

    def keeping(self) -> AbstractContextManager[None]:
        """Steps are taken within it: a checkpoint on its way is on the disk when they have ended,
        however that is."""
        return self._keeping.written()

    def stop_if_asked(self, asked: Interruption) -> None:
        """Save a checkpoint and raise StoppedError after a signal to any of the processes.

        A training that is finished has nothing left to stop.
        """
        if self.is_finished:
            return
        if number := self.ranks.largest(asked.signal_number or 0):
            self._keeping.stop(number, self.steps)

    def _validate(self) -> dict[str, float]:
        """The loss of the target, which chooses, and beside it what else the objective is of."""
        self.model.eval()
        with uncompiled():
            split, most = self.validation, self._validation_tokens
            found = losses_of(self.model, self.loss_of, split, most, ranks=self.ranks)
        return dict(zip(MEASURED, found, strict=False))
