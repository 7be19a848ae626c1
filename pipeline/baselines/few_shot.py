"""`few_shot`: whole training examples before the input, as a person who prompts shows them."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from pipeline.baselines.context import FewShotPrompt, MeasureContext
from pipeline.baselines.in_context import text_stored
from pipeline.baselines.untrained import Before, UntrainedBaseline
from pipeline.errors import PipelineError
from pipeline.schema.section import Count
from pipeline.storage.records import read_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from pipeline.prefix import KVPrefix


class FewShot(UntrainedBaseline):
    """The frozen model with training examples in its context, rendered as the task renders them.

    Of the numbers `shots` the one with the lowest loss on validation is measured; null tries 1, 2,
    4 and so on up to as many as fit. What a number does not leave room for is as many as fit.
    The examples are those of the tokenized training split, but for such as take more than half of
    the room, of which one would stand alone; `instructions` is a text file.
    """

    type: Literal["few_shot"]
    shots: Annotated[list[Count], Field(min_length=1)] | None = None
    instructions: str | None = None
    max_tokens: Count | None = None
    seed: int = 0

    path_is_users_own: ClassVar[bool] = True
    needs_causal_lm: ClassVar[bool] = True

    @model_validator(mode="after")
    def _instructions_are_watched(self) -> Self:
        if self.instructions is None or Path(self.instructions).is_relative_to(self.path):
            return self
        raise ValueError(
            f"path: '{self.path}' does not hold instructions = '{self.instructions}', so that DVC "
            "would not notice an edit of it; name the same file"
        )

    def choices(self, context: MeasureContext) -> Iterator[Before]:
        """A context for each number of examples, fewest first, the longest read by the model once.

        Raises PipelineError when not even one example fits, or the instructions say nothing.
        """
        said = self._instructions()
        room = context.room_before(context.few_shot(1, said, self.seed))
        limits = [limit for limit in (room, self.max_tokens) if limit is not None]
        longest = min(limits) // 2 if limits else None
        total = context.train_examples(longest)
        if not total:
            longest, total = None, context.train_examples()

        def prompt_of(shots: int) -> FewShotPrompt:
            return context.few_shot(shots, said, self.seed, longest)

        numbers = self._numbers(total, limits, prompt_of)
        prompts = [prompt_of(shots) for shots in numbers]
        texts = [prompt.shared_by(context.splits) for prompt in prompts]
        caches = _caches(context.frozen_model, texts)
        for shots, prompt, shared, kv in zip(numbers, prompts, texts, caches, strict=True):
            follow = partial(prompt.follow, shared=shared)
            yield Before(kv, follow, prompt.until, {"shots": shots})

    def stored(self, kv: "KVPrefix | None") -> dict[str, int]:
        """The text."""
        return text_stored(0 if kv is None else len(kv))

    def _instructions(self) -> str | None:
        if self.instructions is None:
            return None
        text = read_text(Path(self.instructions))
        if not text.strip():
            raise PipelineError(f"baselines: the instructions in '{self.instructions}' are empty")
        return text

    def _numbers(
        self, total: int, limits: list[int], prompt_of: Callable[[int], FewShotPrompt]
    ) -> list[int]:
        def fits(shots: int) -> bool:
            shared = prompt_of(shots).shared
            return all(len(shared) <= limit for limit in limits)

        if not fits(1):
            raise PipelineError(
                f"baselines: one training example after the instructions takes more than the "
                f"{min(limits)} tokens that there are for a context; raise max_tokens, or leave "
                "out the instructions or the baseline"
            )
        most = _most(fits, total)
        wanted = self.shots or [*(1 << n for n in range(most.bit_length())), most]
        return sorted({min(number, most) for number in wanted})


def _caches(model: "PreTrainedModel", texts: list[list[int]]) -> Iterator["KVPrefix"]:
    """The KV caches of texts' tokens.

    Of one that begins the last, as fewer examples begin more of them, it is that one's first part:
    by causality it is the same. Not where layers recur, whose states are of a whole text, nor
    where keys turn otherwise in a longer one.
    """
    from pipeline.prefix import kv_prefix_from_tokens
    from pipeline.prefix.architecture.reach import rotary_switch

    longest = texts[-1]
    whole = kv_prefix_from_tokens(model, longest)
    is_cut = "state" not in whole.kinds and rotary_switch(model.config) is None
    for text in texts:
        if text == longest:
            yield whole
        elif is_cut and text == longest[: len(text)]:
            yield whole[: len(text)]
        else:
            yield kv_prefix_from_tokens(model, text)


def _most(fits: Callable[[int], bool], total: int) -> int:
    """The largest number up to `total` that fits, 1 being one that does."""
    low, high = 1, 2
    while high <= total and fits(high):
        low, high = high, 2 * high
    high = min(high, total + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
