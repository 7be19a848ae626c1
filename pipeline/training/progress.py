"""A training between two optimizer steps: what it has come to, and its way into a checkpoint."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from pipeline.prefix import KVPrefix, PrefixModel
from pipeline.training.averaging import Average
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.halving import FoundRate
from pipeline.training.loss_scale import LossScale
from pipeline.training.random_numbers import restore_random_states
from pipeline.training.trained import TrainedWeights

MEASURED = ("validation/loss", "validation/kl")
"""What a validation gives: nats per target token, of the target and from a teacher's predictions.

The second is there where `train.objective` distils.
"""
COLUMNS = ("step", "train/loss", "train/learning_rate", "train/gradient_norm", *MEASURED)
"""The keys of a history's rows; a row has those that were measured at its step."""


@dataclass
class TrainingResult:
    """What training leaves: the prefix with the lowest validation loss, and its history.

    For a model trained without a prefix, `prefix` holds its trained weights.

    `history` has a row an optimizer step with the keys `step`, `train/loss` (nats per target
    token), `train/learning_rate`, `train/gradient_norm` (before clipping) and, where measured,
    those of `MEASURED`; step 0 is the start, before any training.

    `learning_rate` is the peak of its schedule, and `search` what found it, where it was searched.
    """

    prefix: KVPrefix | TrainedWeights
    learning_rate: float
    history: list[dict[str, float]] = field(default_factory=list)
    best_step: int = 0
    stopped_early: bool = False
    search: FoundRate | None = None

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return int(self.history[-1]["step"]) if self.history else 0

    @property
    def columns(self) -> list[str]:
        """The keys that some row of `history` has, and those that a training always measures."""
        found = {key for row in self.history for key in row} | set(COLUMNS[:-1])
        return [key for key in COLUMNS if key in found]

    @property
    def best_loss(self) -> float:
        """The validation loss of `prefix`."""
        return self._measured()[self.best_step]

    @property
    def search_times(self) -> dict[str, float]:
        """What of the search `TrainingClock.record` asks for; empty where there was none."""
        if self.search is None:
            return {}
        found = self.search
        return {"search_seconds": found.seconds, "seconds_before": found.seconds_before}

    def metrics(self) -> dict[str, float]:
        """The training in a few numbers, all of them the same on every run."""
        measured = self._measured()
        found = {
            "train/steps": self.history[-1]["step"],
            "train/best_step": self.best_step,
            "validation/initial_loss": measured[0],
            "validation/best_loss": measured[self.best_step],
        }
        if kls := self._measured("validation/kl"):
            found["validation/initial_kl"] = kls[0]
            found["validation/best_kl"] = kls[self.best_step]
        return found

    def _measured(self, key: str = "validation/loss") -> dict[int, float]:
        return {int(row["step"]): row[key] for row in self.history if key in row}


@dataclass
class Progress:
    """All that changes while a prefix trains; of other trainings no checkpoint can be made.

    The order of the data is a function of the seed and of the batches taken so far, which the
    number of steps gives.
    """

    model: PrefixModel
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    result: TrainingResult
    loss_scale: LossScale
    average: Average | None = None
    waited: int = 0
    is_finished: bool = False

    def advance(self, step: int) -> None:
        """Let the optimizer use the gradients in a step, from 1 on, and forget them."""
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.add(step)

    def averaged(self) -> AbstractContextManager[None]:
        """Within it the model is what is validated and kept: the mean of steps where one is asked
        for."""
        return nullcontext() if self.average is None else self.average.in_place()

    def checkpoint(self, random_states: Mapping[str, torch.Tensor]) -> Checkpoint:
        """Everything as it is now, with the random states that the next step begins from."""
        optimizer = self.optimizer.state_dict()
        best = self._best()
        nan = float("nan")
        rows = [[row.get(key, nan) for key in COLUMNS] for row in self.result.history]
        model = self.model
        tensors = {f"encoder.{k}": v for k, v in model.encoder.state_dict().items()}
        tensors |= {f"heads.{k}": v for k, v in model.heads.state_dict().items()}
        tensors |= {
            f"optimizer.{index}.{key}": value
            for index, values in optimizer["state"].items()
            for key, value in values.items()
        }
        if self.average is not None:
            tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        tensors |= {f"best.keys.{i}": key for i, key in enumerate(best.keys)}
        tensors |= {f"best.values.{i}": value for i, value in enumerate(best.values)}
        tensors |= {f"best.states.{name}": state for name, state in best.states.items()}
        tensors |= {f"best.modules.{name}": module for name, module in best.modules.items()}
        tensors |= {f"random.{device}": state for device, state in random_states.items()}
        tensors["history"] = torch.tensor(rows, dtype=torch.float64).reshape(-1, len(COLUMNS))
        state = {
            "optimizer": optimizer["param_groups"],
            "schedule": self.schedule.state_dict(),
            "best": {
                "layers": best.layers,
                "length": best.length,
                "metadata": best.metadata,
                "parts": best.parts,
            },
            "loss_scale": asdict(self.loss_scale),
            "best_step": self.result.best_step,
            "stopped_early": self.result.stopped_early,
            "waited": self.waited,
            "is_finished": self.is_finished,
        }
        return Checkpoint(tensors, state)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to a checkpoint, random states included."""
        tensors, state = checkpoint.tensors, checkpoint.state
        model = self.model
        model.encoder.load_state_dict(_below("encoder.", tensors))
        model.heads.load_state_dict(_below("heads.", tensors))
        moments: dict[int, dict[str, Any]] = {}
        for name, tensor in _below("optimizer.", tensors).items():
            index, key = name.split(".", 1)
            moments.setdefault(int(index), {})[key] = tensor
        self.optimizer.load_state_dict({"state": moments, "param_groups": state["optimizer"]})
        self.schedule.load_state_dict(state["schedule"])
        if self.average is not None:
            self.average.load_state_dict(_below("average.", tensors))
        self.loss_scale = LossScale(**state["loss_scale"])
        best = state["best"]
        layers = range(sum(name.startswith("best.keys.") for name in tensors))
        self.result.prefix = KVPrefix(
            tuple(tensors[f"best.keys.{i}"] for i in layers),
            tuple(tensors[f"best.values.{i}"] for i in layers),
            best["metadata"],
            None if best["layers"] is None else tuple(best["layers"]),
            None if best["parts"] is None else tuple(best["parts"]),
            _below("best.modules.", tensors),
            _below("best.states.", tensors),
            best["length"],
        )
        self.result.history = [
            {
                key: int(value) if key == "step" else value
                for key, value in zip(COLUMNS, row, strict=True)
                if value == value  # NaN: not measured at this step
            }
            for row in tensors["history"].tolist()
        ]
        self.result.best_step = state["best_step"]
        self.result.stopped_early = state["stopped_early"]
        self.waited = state["waited"]
        self.is_finished = state["is_finished"]
        restore_random_states(_below("random.", tensors), model.device)

    def _best(self) -> KVPrefix:
        assert isinstance(self.result.prefix, KVPrefix), "checkpoints are of prefixes"
        return self.result.prefix


def _below(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
