"""The rate at which initial states train.

AdamW moves every number by about its rate, whatever its gradient. Keys are numbers around one, and
`learning_rate` is made for them; states are as small or as large as an architecture makes them.
"""

import math

from pipeline.config.optimizer import MuonOptimizer
from pipeline.config.train import TrainParams
from pipeline.prefix import PrefixModel


def state_rate(model: PrefixModel, params: TrainParams) -> float | None:
    """The peak rate of a model's trainable states, to two digits; None where it has none.

    `state_learning_rate`, or where that is null AdamW's rate times the size of the frozen
    model's own states: the root mean square of each after a few tokens, and of these the geometric
    mean in which each number counts alike, since convolution and recurrence differ by orders of
    magnitude. Two digits, so that machines which differ in the last one train alike.
    """
    states = getattr(model.encoder, "states", None)
    if states is None:
        return None
    if params.state_learning_rate is not None:
        return params.state_learning_rate
    sizes = [(shape.numel, shape.scale) for shape in states.shapes.values() if shape.scale > 0]
    if not sizes:
        return params.adamw_rate
    logarithms = sum(count * math.log(scale) for count, scale in sizes)
    size = math.exp(logarithms / sum(count for count, _ in sizes))
    return float(f"{params.adamw_rate * size:.2g}")


def rate_keys(model: PrefixModel, params: TrainParams, is_searched: bool) -> tuple[str, ...]:
    """The keys of `train` that set the rates at which something of a model trains.

    Of a rate that was searched it is the end of what was tried.
    """
    keys = ["learning_rate_search.highest" if is_searched else "learning_rate"]
    if isinstance(params.optimizer, MuonOptimizer) and params.optimizer.adamw_learning_rate:
        keys.append("optimizer.adamw_learning_rate")
    if params.state_learning_rate is None or not model.state_parameters:
        return tuple(keys)
    has_others = len(list(model.encoder.parameters())) > len(model.state_parameters)
    return (*(keys if has_others else []), "state_learning_rate")


def unsearched_keys(model: PrefixModel, params: TrainParams) -> list[str]:
    """Those of them, of params.yaml, whose rates a search leaves as they are."""
    keys = rate_keys(model, params, is_searched=True)
    return [f"train.{key}" for key in keys if not key.startswith("learning_rate")]
