"""`chosen_demonstrations`: those examples of the training split that validation gains most from."""

from collections import deque
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar, Literal

from pipeline.initialization.context import CacheContext
from pipeline.initialization.from_examples import ExampleStart, Rows
from pipeline.schema.section import Count

_TRAIN, _VALIDATION = "train.jsonl", "validation.jsonl"


class ChosenDemonstrations(ExampleStart):
    """The KV cache of training examples, the first `chosen` of them chosen one after another.

    Each is the one of `candidates` that, after those chosen before it, gives the first `examples`
    of the validation split the lowest loss, untrained, with as much of them as
    `kv_prefix.max_length` holds. Those after them stand in the order of a seeded shuffle. A shorter
    prefix is cut at its end, so that it keeps what was chosen first.
    """

    type: Literal["chosen_demonstrations"]
    candidates: Count = 4
    chosen: Count = 4
    examples: Count = 16

    stands_in_context: ClassVar[bool] = True
    needs_causal_lm: ClassVar[bool] = True

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
        most = self.chosen * self.candidates
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
        """Raise ValueError for a file: the validation split is to be watched beside it."""
        if Path(self.path).suffix == ".jsonl":
            raise ValueError(
                f"initializations.{name}.path: '{self.path}' is one file, and {self.type} reads "
                f"{_TRAIN} and {_VALIDATION}; name the folder of both, data/raw"
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
