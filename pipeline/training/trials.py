"""The short trainings by which a learning rate is found, each from the very same start."""

import math
import signal
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from pipeline.config.averaging import ExponentialAveraging
from pipeline.config.train import TrainParams
from pipeline.distributed.ranks import Ranks
from pipeline.errors import DivergedError, StoppedError
from pipeline.progress.bar import Bar
from pipeline.schema.learning_rate import RateSearch
from pipeline.training.halving import FoundRate, Round, Trial, planned_trials, search_rate
from pipeline.training.interruption import Interruption
from pipeline.training.kept_trials import KeptTrials
from pipeline.training.training import Training


class ShortTraining(Training):
    """A training that is measured at its end alone, and leaves nothing."""

    def begin(self) -> None:
        """Begin at the start, whose loss is that of all trials alike; nothing is compiled."""
        self.model.train()

    @property
    def loss(self) -> float:
        """Nats per target token on validation, after the last step; infinite for no number."""
        found = self.result.history[-1]["validation/loss"]
        return found if math.isfinite(found) else math.inf


ShortTrainingOf = Callable[[TrainParams], ShortTraining]
"""Makes the short training of some params, on the model as it is."""


def trial_params(params: TrainParams, rate: float, steps: int, of_steps: int) -> TrainParams:
    """The params of a short training: a whole schedule, with its share of the warm-up.

    An exponential mean of the weights looks as far back as that of the whole training does, as a
    share of the steps. Reaching over a whole short training it would favour rates too high for the
    long one, of which it averages the leaps.
    """
    averaging = params.averaging
    if isinstance(averaging, ExponentialAveraging):
        decay = averaging.decay ** (of_steps / steps)
        averaging = averaging.model_copy(update={"decay": decay})
    return params.model_copy(
        update={
            "averaging": averaging,
            "learning_rate": rate,
            "max_steps": steps,
            "epochs": None,
            "warmup_steps": params.warmup_steps * steps // of_steps,
            "eval_every_steps": None,
            "early_stopping_patience": None,
        }
    )


class Trials:
    """The trials of one search, which leave the model as it was.

    Args:
        short_training: of the model, whose trained part is the start.
        model: the parameters of that start.
        params: of the training that the rate is for, which has so many `steps`.
        ranks: the processes.
        kept: the trials of an earlier process, and where those of this one are kept.
    """

    def __init__(
        self,
        short_training: ShortTrainingOf,
        model: torch.nn.Module,
        params: TrainParams,
        steps: int,
        ranks: Ranks,
        kept: KeptTrials,
    ) -> None:
        self._training_of, self._params, self._steps = short_training, params, steps
        trained = [p for p in model.parameters() if p.requires_grad]
        self._start = [(parameter, parameter.detach().clone()) for parameter in trained]
        self._ranks, self._kept = ranks, kept
        self._known: list[Trial] = ranks.from_first(kept.read())
        self.planned = sum(planned_trials(self._search, steps))
        """Optimizer steps of all of them."""
        self.done = sum(trial.steps for trial in self._known)
        """Those that an earlier process took."""
        self._seconds_before = sum(trial.seconds for trial in self._known)

    @property
    def _search(self) -> RateSearch:
        return self._params.learning_rate_search

    def search(self, bar: Bar, asked: Interruption) -> FoundRate:
        """Find the rate; each trial that is done is kept.

        Raises:
            DivergedError: where every candidate diverges.
            StoppedError: after a signal.
        """
        found = search_rate(
            self._search, self._steps, lambda rate, planned: self._trial(rate, planned, bar, asked)
        )
        self.stop_if_asked(asked)
        if self._ranks.is_first:
            print(f"learning rate: {found.rate:g}, of {self._told(found)}")
        return replace(found, seconds_before=self._seconds_before)

    def _told(self, found: FoundRate) -> str:
        rates = self._search.rates
        told = f"{len(rates)} from {rates[0]:g} to {rates[-1]:g}"
        ends = {rates[0]: ("lowest", "lower"), rates[-1]: ("highest", "higher")}
        if found.rate not in ends:
            return told
        end, way = ends[found.rate]
        return f"{told}; it is the {end}: a {way} learning_rate_search.{end} may find a better one"

    def stop_if_asked(self, asked: Interruption) -> None:
        """Raise StoppedError after a signal to any of the processes."""
        if number := self._ranks.largest(asked.signal_number or 0):
            is_kept = self._kept.path is not None
            where = "goes on after them" if is_kept else "starts it again"
            raise StoppedError(
                f"stopped by {signal.Signals(number).name} in the search of the learning rate, "
                f"after {len(self._known)} of "
                f"{len(list(planned_trials(self._search, self._steps)))} short trainings; "
                f"`dvc repro` {where}",
                number,
            )

    def _trial(self, rate: float, planned: Round, bar: Bar, asked: Interruption) -> Trial:
        for known in self._known:
            if (known.rate, known.steps) == (rate, planned.steps):
                return known
        began = time.perf_counter()
        loss = self._loss(rate, planned, bar, asked)
        self._put_back()
        trial = Trial(rate, planned.steps, loss, time.perf_counter() - began)
        self._known.append(trial)
        if self._ranks.is_first:
            self._kept.write(self._known)
        return trial

    def _loss(self, rate: float, planned: Round, bar: Bar, asked: Interruption) -> float:
        params = trial_params(self._params, rate, planned.steps, self._steps)
        training = self._training_of(params)
        title = f"round {planned.number}, rate {rate:g}"
        with training.drawing():
            training.begin()
            try:
                while not training.is_finished:
                    self.stop_if_asked(asked)
                    step = training.choose()
                    training.compute(step)
                    training.settle(step)
                    training.update(step)
                    training.record(step)
                    bar.update(1, f"{title}: loss {step.loss:.3f}")
            except DivergedError:
                bar.update(planned.steps - training.result.step, f"{title}: diverged")
                return math.inf
        return training.loss

    @torch.no_grad()
    def _put_back(self) -> None:
        """Every parameter as it was, and no gradient."""
        for parameter, start in self._start:
            parameter.copy_(start)
            parameter.grad = None
