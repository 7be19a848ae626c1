"""Loss scaling: gradients of a float16 model, kept from vanishing."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

# Those of torch's GradScaler.
_START = 2.0**16
_STEPS_BEFORE_GROWTH = 2000


@dataclass
class LossScale:
    """What the loss is multiplied by, and its gradients divided by before they are used.

    float16 holds nothing between 0 and 6e-8, which most gradients of a mean over many tokens are.
    The scale is dynamic, as in mixed-precision training (Micikevicius et al. 2018, arXiv
    1710.03740): halved when a gradient overflows, doubled after many steps in which none did. Where
    torch's `GradScaler` then leaves out the step, here it is to be computed again, so that every
    example counts in every epoch. Powers of two change no digit of a number.
    """

    value: float = 1.0
    steps: int = 0
    """Steps since `value` last changed."""
    is_dynamic: bool = False

    @classmethod
    def of(cls, model: torch.nn.Module) -> "LossScale":
        """The scale to begin with: dynamic where a parameter is float16, else 1."""
        if any(parameter.dtype == torch.float16 for parameter in model.parameters()):
            return cls(_START, 0, True)
        return cls()

    @torch.no_grad()
    def settle(self, loss: float, parameters: Sequence[torch.nn.Parameter]) -> bool:
        """Divide the gradients by the scale; False when they overflowed, to be computed again.

        What is no number at a scale of 1, or with a `loss` that is none, is no matter of scaling.
        """
        if not self.is_dynamic:
            return True
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for gradient in gradients:
            gradient.div_(self.value)
        is_finite = all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
        if not is_finite and self.value > 1 and abs(loss) < float("inf"):
            self.value, self.steps = self.value / 2, 0
            return False
        self.steps += 1
        if is_finite and self.steps == _STEPS_BEFORE_GROWTH:
            self.value, self.steps = self.value * 2, 0
        return True
