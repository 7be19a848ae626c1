"""Other documents' prefixes beside the one that is trained, drawn for each step."""

import random
from collections.abc import Mapping

from pipeline.config.prefix import DistractorParams
from pipeline.errors import PipelineError
from pipeline.prefix import KVPrefix, PrefixModel
from pipeline.prefix.accompanied import AccompaniedPrefix
from pipeline.prefix.architecture.context import context_of


def read_distractors(params: DistractorParams) -> dict[str, KVPrefix]:
    """The prefixes that `prefix.distractors` names, by name; none where it asks for none.

    Raises PipelineError or PrefixError for files that are missing, too few, or damaged.
    """
    return {name: KVPrefix.load(path) for name, path in params.files().items()}


class Distractors:
    """What of them stands beside the trained prefix in each step of a training.

    The draw depends on the seed and the step's number alone, so that a training that goes on from
    a checkpoint meets what it would have met.

    Args:
        model: of the prefix that is trained.
        prefixes: of other documents, made with the same frozen model.
        params: how many of them stand beside it, and in which share of the steps.
        seed: of the draw.
        longest: tokens of the longest example.
        key: of the section that asks for them.

    Raises:
        PipelineError: where the longest example has no room after them.
        PrefixError: where they cannot be composed with it.
    """

    def __init__(
        self,
        model: PrefixModel,
        prefixes: Mapping[str, KVPrefix],
        params: DistractorParams,
        seed: int,
        longest: int,
        key: str = "prefix.distractors",
    ) -> None:
        self._count, self._probability, self._seed = params.count, params.probability, seed
        self._number = len(prefixes)
        most = sum(sorted(map(len, prefixes.values()), reverse=True)[: params.count])
        context, needed = context_of(model.frozen_model), model.prefix_length + most + longest
        if context is not None and needed > context:
            raise PipelineError(
                f"{key}: prefix, {most} virtual tokens of distractors and an example "
                f"of {longest} tokens are more than the model's context of {context} positions; "
                "lower count, or name shorter prefixes"
            )
        others = list(prefixes.values())
        self._accompanied = AccompaniedPrefix(model, others, list(prefixes), most)

    def model_of(self, step: int) -> PrefixModel | None:
        """The model with those that a step has beside the trained prefix; None for a step without.

        They stand before it or after it, in an order that is drawn too.
        """
        draw = random.Random(f"distractors of seed {self._seed}, step {step}")
        if draw.random() >= self._probability:
            return None
        chosen = draw.sample(range(self._number), self._count)
        own = draw.randint(0, self._count)
        return self._accompanied.among(chosen[:own], chosen[own:])

    def detach(self) -> None:
        """Leave the frozen model as it was."""
        self._accompanied.detach()
