"""`in_context`: a text before the input."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import model_validator

from pipeline.baselines.context import MeasureContext
from pipeline.baselines.untrained import Before, UntrainedBaseline
from pipeline.errors import PipelineError
from pipeline.schema.placing import Placed
from pipeline.schema.section import Count
from pipeline.storage.records import read_text

if TYPE_CHECKING:
    from pipeline.prefix import KVPrefix


class InContext(Placed, UntrainedBaseline):
    """The frozen model with the text of a file in its context; null for as much as fits.

    Without a `role` the text stands first of all, before the chat, where a prefix stands; with one
    it stands as a teacher's: as the system's turn, or among the user's words.
    """

    type: Literal["in_context"]
    max_tokens: Count | None = 512

    needs_causal_lm: ClassVar[bool] = True

    @model_validator(mode="after")
    def _template_has_a_role(self) -> Self:
        if self.role is None and "template" in self.model_fields_set:
            raise ValueError(
                "template is of a text among the user's words; set role: user, or leave it out"
            )
        return self

    def choices(self, context: MeasureContext) -> Iterator[Before]:
        """The text's KV cache: as a prefix it gives the logits of the text in the context, and is
        computed once for all examples.

        Raises PipelineError for a file without text, and inputs that leave no room for any of it.
        """
        from pipeline.prefix import kv_prefix_from_tokens

        text = read_text(Path(self.path))
        tokens, count = context.tokens(text)
        if len(tokens) == count:
            raise PipelineError(f"baselines: the text in '{self.path}' is empty")
        if self.role is not None:
            yield self._placed(context, text, tokens[count:])
            return
        most = context.free_positions() if self.max_tokens is None else self.max_tokens
        kv = kv_prefix_from_tokens(context.frozen_model, tokens[:most])
        yield Before(kv.beginning_text(bool(count)))

    def _placed(self, context: MeasureContext, text: str, tokens: list[int]) -> Before:
        """The text where `role` says; what all inputs have alike is read once."""
        from pipeline.prefix import kv_prefix_from_tokens

        most = len(tokens) if self.max_tokens is None else self.max_tokens
        while True:
            part = text if most >= len(tokens) else context.tokenizer.decode(tokens[:most])
            prompt = context.all_after("baselines", self, part)
            shared = prompt.shared_by(context.splits)
            room = context.room_before(prompt) if self.max_tokens is None else None
            if room is None or len(shared) <= room:
                break
            most = min(most, len(tokens)) - (len(shared) - room)
            if most < 1:
                raise PipelineError(
                    f"baselines: the inputs leave no room for the text in '{self.path}'; lower "
                    "evaluate.max_new_tokens or task.max_length"
                )
        follow = partial(prompt.follow, shared=shared)
        return Before(kv_prefix_from_tokens(context.frozen_model, shared), follow)

    def stored(self, kv: "KVPrefix | None") -> dict[str, int]:
        """The text."""
        return text_stored(0 if kv is None else len(kv))

    def tokens_before(self, tokens_in: Callable[[str], int]) -> int | None:
        """The text's, up to `max_tokens`."""
        path = Path(self.path)
        if self.max_tokens is None or not path.is_file():
            return None
        return min(self.max_tokens, tokens_in(read_text(path)))


def text_stored(tokens: int) -> dict[str, int]:
    """What a text in the context costs: no parameters, and its token ids at 4 bytes each."""
    return {"trainable_parameters": 0, "stored_bytes": 4 * tokens}
