"""When a training's numbers are of no more use."""

from pipeline.errors import DivergedError

# Nats per target token; a uniform guess over a vocabulary of a million tokens costs 14.
_EXPLODED = 1000.0


def refuse_divergence(step: int, loss: float, norm: float, rate: float) -> None:
    """Raise DivergedError for a loss or a gradient's norm that is no number of use.

    Step 0 is the start, before any training; `rate` is the step's learning rate.
    """
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
