"""Muon in the dtype of what it trains."""

import torch


class Muon(torch.optim.Muon):
    """`torch.optim.Muon`, whose steps are orthogonalised in the gradient's own dtype.

    Torch's iterates in bfloat16 whatever the gradient is. There the last digit of a gradient can
    change a step by a tenth, so that a training in two processes, or beside others, would not end
    as it does alone; and a CPU that does not compute in bfloat16 takes many times as long.
    Arguments, groups and states are torch's. The rate is that of `adjust_lr_fn="match_rms_adamw"`,
    a step's root mean square being 0.2 times it (Liu et al. 2025, arXiv 2502.16982, section 2.2).
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient. There is no closure."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state, momentum = self.state[parameter], group["momentum"]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(parameter.grad)
                mean = state["momentum_buffer"].lerp_(parameter.grad, 1 - momentum)
                update = parameter.grad.lerp(mean, momentum) if group["nesterov"] else mean
                direction = orthogonal(update, group["ns_coefficients"], group["ns_steps"])
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                longer = max(parameter.shape) ** 0.5
                parameter.add_(direction, alpha=-0.2 * group["lr"] * longer)


def orthogonal(
    matrix: torch.Tensor, coefficients: tuple[float, float, float], steps: int
) -> torch.Tensor:
    """About the nearest matrix whose singular values are 1: they are between 0.5 and 1.5.

    Newton and Schulz's iteration with a quintic polynomial (Jordan et al. 2024,
    https://kellerjordan.github.io/posts/muon/). What is zero stays zero.
    """
    a, b, c = coefficients
    is_tall = matrix.shape[0] > matrix.shape[1]
    found = matrix.T if is_tall else matrix
    # Singular values of at most 1; of what has a norm below any gradient's, less.
    found = found / found.norm().clamp(min=1e-30)
    for _ in range(steps):
        gram = found @ found.T
        found = torch.addmm(found, torch.addmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return found.T if is_tall else found
