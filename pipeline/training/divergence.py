"""When a training's numbers are of no more use."""

import re
from collections.abc import Mapping, Sequence

from pipeline.errors import DivergedError

# Nats per target token; a uniform guess over a vocabulary of a million tokens costs 14.
_EXPLODED = 1000.0


def refuse_divergence(
    step: int, loss: float, norm: float, rate: float, keys: tuple[str, ...] = ("learning_rate",)
) -> None:
    """Raise DivergedError for a loss or a gradient's norm that is no number of use.

    Step 0 is the start, before any training; `rate` is the step's learning rate, and `keys` are
    those of `train` that give rates (`rate_keys`).
    """
    if abs(loss) < _EXPLODED and norm < float("inf"):
        return
    if step == 0:
        raise DivergedError(
            f"the loss is {loss} before any training; start from another initialisation (a lower "
            "scale), or compute in another train.dtype"
        )
    named = " or ".join(f"train.{key}" for key in keys)
    raise DivergedError(
        f"{named}: at step {step} the loss is {loss} and the gradient's norm {norm} with a rate of "
        f"{rate:g}; lower it, or give more warmup_steps"
    )


def in_section(error: DivergedError, sections: Mapping[str, str]) -> DivergedError:
    """The same error of a training whose keys stand elsewhere than in `train`.

    `sections` has what stands in place of each beginning of a key, as `train.learning_rate`; the
    first that fits counts.
    """
    beginnings = "|".join(map(re.escape, sections))
    return DivergedError(re.sub(rf"\b({beginnings})", lambda found: sections[found[1]], str(error)))


def or_lower(error: DivergedError, keys: Sequence[str]) -> DivergedError:
    """The same error, that the rates of further keys may have brought about too; none leave it."""
    return DivergedError(f"{error}, or lower {' or '.join(keys)}") if keys else error
