"""The teacher at work: what the frozen model predicts at targets with a text in its context."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import torch
from transformers import PreTrainedModel

from pipeline.data.batching import Example, by_length
from pipeline.data.context_prompt import ContextPrompt
from pipeline.errors import PipelineError
from pipeline.loss.states import TargetStates, chunks
from pipeline.models.prefixed import prefixed_model
from pipeline.prefix import PrefixError, PrefixModel, kv_prefix_from_tokens
from pipeline.prefix.architecture.context import context_of

Predicted = tuple[torch.Tensor, torch.Tensor]
"""Of one example's target the top k tokens and their log-probabilities, `[targets, k]` each."""


class Teacher:
    """The frozen model, and the KV cache of the text that it read last.

    What stands before every input is read once and is a prefix of all examples, which gives the
    predictions that the whole text in the context gives. Examples that do not begin with it to the
    token, and models that take no prefix, are read whole.
    """

    def __init__(
        self, model: PreTrainedModel, prompt: ContextPrompt, top_k: int, max_tokens: int
    ) -> None:
        self._model, self._prompt, self._max_tokens = model, prompt, max_tokens
        self.top_k = min(top_k, model.get_output_embeddings().weight.shape[0])
        self._read: str | None = None
        self._shared: list[int] = []
        self._after: PrefixModel | None = None

    def predictions(
        self, rows: Sequence[Mapping[str, Any]], texts: Sequence[str]
    ) -> list[Predicted]:
        """What is predicted at the targets of tokenized rows, each after its own text.

        Raises PipelineError for a row that does not fit into the model's context.
        """
        found: dict[int, Predicted] = {}
        places = range(len(rows))
        for text, group in groupby(places, key=lambda place: texts[place]):
            examples = [self._example(text, rows[place], place) for place in group]
            self._go_on_to(text)
            following = [self._following(example) for example in examples]
            alone = [e for e, own in zip(examples, following, strict=True) if own is None]
            found |= self._predicted(self._after, [own for own in following if own is not None])
            found |= self._predicted(None, alone)
        return [found[place] for place in places]

    def close(self) -> None:
        """Leave the frozen model as it was."""
        if self._after is not None:
            self._after.detach()
        self._after = None

    def _example(self, text: str, row: Mapping[str, Any], place: int) -> Example:
        before = self._prompt.input_ids(text, row)
        ids = before + list(row["input_ids"][row["target_start"] :])
        context = context_of(self._model)
        if context is not None and len(ids) > context:
            raise PipelineError(
                f"{self._prompt.key}: example {row['id']} after the text has {len(ids)} "
                f"tokens, more than the model's context of {context} positions; shorten the text, "
                "or lower task.max_length"
            )
        return {"input_ids": ids, "target_start": len(before), "place": place}

    def _go_on_to(self, text: str) -> None:
        """Read what stands before every input about a text, unless it was read last."""
        if text == self._read:
            return
        self.close()
        self._read, self._shared = text, self._prompt.shared(text)
        if not self._shared:
            return
        try:
            kv = kv_prefix_from_tokens(self._model, self._shared)
            self._after = prefixed_model(self._model, kv)
        except PrefixError as error:
            print(f"{self._prompt.key}: the text is read for every example anew: {error}")

    def _following(self, example: Example) -> Example | None:
        """An example as it goes on after what was read; None where it does not."""
        count, ids = len(self._shared), example["input_ids"]
        # At least one token is the input's own: the one that predicts the first of the target.
        if self._after is None or count >= example["target_start"] or ids[:count] != self._shared:
            return None
        start = example["target_start"] - count
        return {**example, "input_ids": ids[count:], "target_start": start}

    def _predicted(
        self, after: PrefixModel | None, examples: Sequence[Example]
    ) -> dict[int, Predicted]:
        if not examples:
            return {}
        found: dict[int, Predicted] = {}
        if after is None and self._after is not None:
            # The next call brings its prefix in again.
            self._after.detach()
        with _alone(self._model, after) as model, torch.inference_mode():
            states = TargetStates(model.eval())
            lengths = [len(example["input_ids"]) for example in examples]
            packed = {length: states.packs(length) for length in sorted({*lengths}, reverse=True)}
            # Packed rows share one prefix; padded ones hold a copy each.
            sizes = [n if packed[n] else n + model.prefix_length for n in lengths]
            for batch in by_length(sizes, self._max_tokens):
                found |= self._of_batch(states, [examples[i] for i in batch])
        return found

    def _of_batch(self, states: TargetStates, examples: list[Example]) -> dict[int, Predicted]:
        found: dict[int, Predicted] = {}
        for part, predicted, _ in states.predictions(examples):
            tops = [self._top(states.logits(predicted[rows])) for rows in chunks(predicted)]
            log_probs, ids = (torch.cat(each).cpu() for each in zip(*tops, strict=True))
            counts = [len(e["input_ids"]) - e["target_start"] for e in part]
            own = zip(part, ids.int().split(counts), log_probs.split(counts), strict=True)
            found |= {example["place"]: (its_ids, its) for example, its_ids, its in own}
        return found

    def _top(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = torch.log_softmax(logits.float(), dim=-1).topk(self.top_k, dim=-1)
        return found.values, found.indices


@contextmanager
def _alone(model: PreTrainedModel, after: PrefixModel | None) -> Iterator[PrefixModel]:
    """The model after what was read, or one with nothing before its rows."""
    if after is not None:
        yield after
        return
    bare = PrefixModel(model)
    try:
        yield bare
    finally:
        bare.detach()
