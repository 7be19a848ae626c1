"""What moves the numbers that are trained: `train.optimizer`."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.schema.section import Fraction, Section


class _AdamW(Section):
    """AdamW's own: the decays of the mean and of the mean square of gradients; what divides them.

    `eps` is added to the root of the mean square.
    """

    betas: Annotated[list[Fraction], Field(min_length=2, max_length=2)] = Field(
        default_factory=lambda: [0.9, 0.999]
    )
    eps: Annotated[float, Field(gt=0)] = 1e-8


class AdamWOptimizer(_AdamW):
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101): each number by its own gradients."""

    type: Literal["adamw"] = "adamw"


class MuonOptimizer(_AdamW):
    """Muon (Jordan et al. 2024): each layer's keys, and its values, by an orthogonal matrix.

    `momentum`, `nesterov` and `ns_steps` (of Newton and Schulz's iteration) are those of
    `torch.optim.Muon`. AdamW moves what is no such matrix, at `adamw_learning_rate`, or at
    `train.learning_rate` where that is null.
    """

    type: Literal["muon"]
    momentum: Fraction = 0.95
    nesterov: bool = True
    ns_steps: Annotated[int, Field(ge=1, lt=100)] = 5
    adamw_learning_rate: Annotated[float, Field(gt=0)] | None = None


Optimizer = Annotated[AdamWOptimizer | MuonOptimizer, Field(discriminator="type")]
