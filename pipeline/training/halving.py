"""Successive halving over learning rates: short trainings drop the worse half, longer ones choose.

Successive halving (Karnin et al. 2013; Jamieson and Talwalkar 2015, arXiv 1502.07943) gives every
round the same budget, so that fewer candidates train for longer; it is one bracket of Hyperband (Li
et al. 2016, arXiv 1603.06560). Where those go on with a candidate, each training here begins anew:
its schedule is a whole one, whose end the loss of a rate depends on.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipeline.errors import DivergedError
from pipeline.schema.learning_rate import RateSearch


@dataclass(frozen=True)
class Trial:
    """A short training at one rate.

    Attributes:
        rate: the peak of its schedule.
        steps: optimizer steps, those of a whole schedule.
        loss: nats per target token on validation at its end; infinite where it diverged.
        seconds: what it took.
    """

    rate: float
    steps: int
    loss: float
    seconds: float = 0.0


@dataclass(frozen=True)
class Round:
    """`candidates` train for `steps` each; `number` counts from 1."""

    number: int
    candidates: int
    steps: int


@dataclass(frozen=True)
class FoundRate:
    """What a search came to: the rate, and every trial of each round, by rate.

    Of the trials' time `seconds_before` were an earlier process's, which was killed.
    """

    rate: float
    rounds: list[list[Trial]]
    seconds_before: float = 0.0

    @property
    def trials(self) -> list[Trial]:
        """Those of all rounds, each once."""
        return list(dict.fromkeys(trial for trials in self.rounds for trial in trials))

    @property
    def seconds(self) -> float:
        """What all of them took."""
        return sum(trial.seconds for trial in self.trials)

    @property
    def table(self) -> list[dict[str, float | None]]:
        """A row a trial, the same on every run: a loss that diverged is null."""
        return [
            {
                "round": number,
                "learning_rate": trial.rate,
                "steps": trial.steps,
                "validation_loss": trial.loss if math.isfinite(trial.loss) else None,
            }
            for number, trials in enumerate(self.rounds, start=1)
            for trial in trials
        ]


def planned_rounds(search: RateSearch, steps: int) -> list[Round]:
    """The rounds of a search before a training of so many steps.

    Each round has the same share of `search.share_of_steps` times `steps`, a candidate one step at
    the least and as many as the training itself at the most; the last has two candidates.
    """
    counts = [len(search.rates)]
    while counts[-1] > 2:
        counts.append(math.ceil(counts[-1] / 2))
    budget = search.share_of_steps * steps / len(counts)
    return [
        Round(number, count, max(1, min(steps, int(budget / count))))
        for number, count in enumerate(counts, start=1)
    ]


def planned_trials(search: RateSearch, steps: int) -> Iterator[int]:
    """The steps of each trial that is computed; one that a round before has had is not."""
    had = 0
    for planned in planned_rounds(search, steps):
        if planned.steps > had:
            yield from [planned.steps] * planned.candidates
        had = planned.steps


def search_rate(
    search: RateSearch, steps: int, trial_of: Callable[[float, Round], Trial]
) -> FoundRate:
    """The rate among the candidates whose short trainings end with the lowest validation loss.

    None of them is one that diverged in any round: where those of the last round did, the best of
    an earlier one is found.

    Args:
        search: the candidates, and what the search may cost.
        steps: of the training that the rate is for.
        trial_of: trains at a rate from the start, for the round's steps with a whole schedule; all
            on the same batches. It is asked once for each rate and number of steps.

    Raises:
        DivergedError: where every candidate diverges.
    """
    known: dict[tuple[float, int], Trial] = {}
    rates, rounds = search.rates, list[list[Trial]]()
    for planned in planned_rounds(search, steps):
        # A lower rate goes before a higher one of the same loss.
        left = sorted(rates[: planned.candidates])
        for rate in left:
            if (rate, planned.steps) not in known:
                known[rate, planned.steps] = trial_of(rate, planned)
        rounds.append([known[rate, planned.steps] for rate in left])
        rates = [trial.rate for trial in sorted(rounds[-1], key=lambda trial: trial.loss)]
    # The training is longer than any trial: what diverged in one will in it.
    diverged = {trial.rate for trial in known.values() if not math.isfinite(trial.loss)}
    for trials in reversed(rounds):
        if left_over := [trial for trial in trials if trial.rate not in diverged]:
            return FoundRate(min(left_over, key=lambda trial: trial.loss).rate, rounds)
    raise DivergedError(
        f"train.learning_rate_search: all {len(search.rates)} rates from {search.lowest:g} to "
        f"{search.highest:g} diverge; lower lowest, or start from another initialisation"
    )
