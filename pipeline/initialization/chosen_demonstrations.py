"""`chosen_demonstrations`: those examples of the training split that validation gains most from."""

from collections import deque
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import model_validator

from pipeline.initialization.context import CacheContext
from pipeline.initialization.from_examples import ExampleStart, Rows
from pipeline.schema.section import Count
from pipeline.workspace import paths

_TRAIN, _VALIDATION = "train.jsonl", "validation.jsonl"


class ChosenDemonstrations(ExampleStart):
    """The KV cache of training examples, the first `chosen` of them chosen one after another.

    Each is the one of `candidates` that, after those chosen before it, gives the first `examples`
    of the validation split the lowest loss, untrained, with as much of them as
    `kv_prefix.max_length` holds. Those after them stand in the order of a seeded shuffle. A shorter
    prefix is cut at its end, so that it keeps what was chosen first. One choice serves all
    variants, so that it is by the text in the context, whatever layers and kinds train.
    """

    type: Literal["chosen_demonstrations"]
    candidates: Count = 4
    chosen: Count = 4
    examples: Count = 16

    stands_in_context: ClassVar[bool] = True
    needs_causal_lm: ClassVar[bool] = True
    validates_cache: ClassVar[bool] = True

    @model_validator(mode="after")
    def _chooses_of_what_is_there(self) -> Self:
        if self.chosen > self.max_examples:
            raise ValueError(
                f"chosen: {self.chosen} is above max_examples: {self.max_examples}, of which they "
                "are chosen; lower it"
            )
        return self

    def rows(self, context: CacheContext) -> Rows:
        """The chosen rows, best first, and after them those that were not.

        Each round tries rows that no earlier one has, as long as there are such.
        """
        from pipeline.progress.bar import Bar, tell

        folder = Path(self.path)
        waiting = deque(self.drawn(folder / _TRAIN))
        shown: list[dict[str, Any]] = []
        _, begins_text = self.shown_tokens(context, list(waiting)[:1])
        examples = context.validation(folder / _VALIDATION, self.examples, begins_text)
        most = min(self.chosen * self.candidates, sum(range(len(waiting) + 1)))
        tell(
            f"{context.name}: chooses {self.chosen} of at most {most} demonstrations by the loss "
            f"of {self.examples} validation examples"
        )
        with Bar(most, f"choose {context.name}", "candidate") as bar:
            while waiting and len(shown) < self.chosen and self._has_room(context, shown):
                tried = [waiting.popleft() for _ in range(min(self.candidates, len(waiting)))]
                losses: list[float] = []
                for row in tried:
                    losses.append(self._loss(context, [*shown, row], examples))
                    bar.update(note=f"loss {min(losses):.4f}")
                shown.append(tried.pop(losses.index(min(losses))))
                waiting.extend(tried)
        return [*shown, *waiting]

    def check_path(self, name: str, trained: Collection[str]) -> None:
        """Raise ValueError for any other place than the data's: both splits are to be watched."""
        if Path(self.path) != paths.RAW_DATA:
            raise ValueError(
                f"initializations.{name}.path: '{self.path}' is not the folder of {_TRAIN} and "
                f"{_VALIDATION}, which {self.type} reads; use {paths.RAW_DATA.as_posix()}"
            )

    def _has_room(self, context: CacheContext, shown: Rows) -> bool:
        """Whether another row would be seen in the KV cache."""
        return not shown or len(self.shown_tokens(context, shown)[0]) < context.max_length

    def _loss(
        self, context: CacheContext, shown: Rows, examples: list[tuple[list[int], int]]
    ) -> float:
        """Nats per target token of examples after rows, untrained."""
        from pipeline.prefix import kv_prefix_from_tokens, untrained_loss

        tokens, _ = self.shown_tokens(context, shown)
        kv = kv_prefix_from_tokens(context.frozen_model, tokens)
        return untrained_loss(context.frozen_model, kv, examples)
