"""The training of every variant: the `train` section."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.config.averaging import Averaging
from pipeline.config.objective import Objective, TargetObjective
from pipeline.config.optimizer import AdamWOptimizer, MuonOptimizer, Optimizer
from pipeline.schema.compute import Compute
from pipeline.schema.learning_rate import LearningRate, RateSearch
from pipeline.schema.section import Count


class TrainParams(Compute):
    """The training of every variant."""

    objective: Objective = TargetObjective()
    optimizer: Optimizer = AdamWOptimizer()
    learning_rate: LearningRate = 5e-3
    learning_rate_search: RateSearch = RateSearch()
    state_learning_rate: Annotated[float, Field(gt=0)] | None = None
    key_rate_factor: Annotated[float, Field(gt=0)] = 1.0
    relative_rates: bool = False
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    batch_size: Count = 8
    gradient_accumulation_steps: Count = 1
    epochs: Annotated[float, Field(gt=0)] | None = 1
    max_steps: Count | None = None
    eval_every_steps: Count | None = None
    early_stopping_patience: Count | None = None
    averaging: Averaging | None = None
    gradient_checkpointing: bool = False
    compile: Literal["auto"] | bool = "auto"

    @property
    def peak_rate(self) -> float:
        """`learning_rate` as a number, which `auto` is once the search is over."""
        assert self.learning_rate != "auto", "the search is over before a training begins"
        return self.learning_rate

    def at(self, rate: float | None) -> Self:
        """The same training with this peak rate; for None as it is."""
        return self if rate is None else self.model_copy(update={"learning_rate": rate})

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.epochs is None) == (self.max_steps is None):
            raise ValueError("give either epochs or max_steps, and null for the other")
        if self.early_stopping_patience is not None and self.eval_every_steps is None:
            raise ValueError("early_stopping_patience needs eval_every_steps")
        if self.compile is True and self.gradient_checkpointing:
            raise ValueError("compile: true does not go with gradient_checkpointing; use auto")
        return self

    @property
    def adamw_rate(self) -> float:
        """The peak rate of what AdamW moves: of everything, or of what Muon leaves to it."""
        given = None
        if isinstance(self.optimizer, MuonOptimizer):
            given = self.optimizer.adamw_learning_rate
        return self.peak_rate if given is None else given

    @property
    def moves_blocks(self) -> bool:
        """Whether layers' keys and values are moved otherwise than all numbers alike."""
        is_adamw = isinstance(self.optimizer, AdamWOptimizer)
        return not is_adamw or self.key_rate_factor != 1 or self.relative_rates

    def of_weights(self) -> Self:
        """The same training for what is not keys and values alone: AdamW moves all of it alike."""
        adamw = AdamWOptimizer(betas=self.optimizer.betas, eps=self.optimizer.eps)
        alike = {"optimizer": adamw, "key_rate_factor": 1.0, "relative_rates": False}
        return self.model_copy(update=alike)
