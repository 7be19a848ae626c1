"""What documents' prefixes are worth: alone, in another's place, and several at once."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from statistics import mean
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel

from pipeline.config.library import Together
from pipeline.data.beginning import following
from pipeline.library.arrangements import arrangements
from pipeline.models.prefixed import prefixed_model
from pipeline.prefix import KVPrefix
from pipeline.prefix.composition import composed
from pipeline.progress.bar import Bar
from pipeline.training.validation import target_loss_of

Row = dict[str, Any]
_IN_MEMORY = 32  # prefixes, of a library that may have hundreds


class Measured:
    """The losses of documents' questions, nats per target token, after whatever prefixes.

    Args:
        frozen_model: the model that all prefixes were made with.
        rounds: of each round of training its prefixes' files, by document.
        always_visible: `prefix.prefix_always_visible` of them all.
        max_tokens: bounds a batch's rows times (prefix + example).
    """

    def __init__(
        self,
        frozen_model: PreTrainedModel,
        rounds: Mapping[str, Mapping[str, Path]],
        always_visible: bool,
        max_tokens: int,
    ) -> None:
        self._frozen, self._rounds = frozen_model, rounds
        self._always_visible, self._max_tokens = always_visible, max_tokens
        self._load = lru_cache(_IN_MEMORY)(KVPrefix.load)

    def rows(
        self, questions_of: Callable[[str], tuple[str, Dataset]], together: Together
    ) -> list[Row]:
        """A row for each document and round; `questions_of` gives a split's name, and the split.

        Of several prefixes at once the mean over their arrangements, the highest, and each.
        """
        documents = list(next(iter(self._rounds.values())))
        rows: list[Row] = []
        with Bar(len(documents) * len(self._rounds), "library", "measurement") as bar:
            for name in documents:
                split, examples = questions_of(name)
                nothing = self._loss(examples, None)
                orders = arrangements(name, documents, together)
                for trained in self._rounds:
                    row = self._row(name, trained, examples, orders)
                    questions = {"questions": split, "number": len(examples), "nothing": nothing}
                    rows.append({"document": name, "trained": trained, **questions, **row})
                    bar.update()
        return rows

    def _row(
        self, name: str, trained: str, examples: Dataset, orders: Sequence[tuple[str, ...]]
    ) -> Row:
        def after(*names: str) -> float:
            kvs = [self._load(self._rounds[trained][each]) for each in names]
            return self._loss(examples, composed(self._frozen, kvs, names))

        own = after(name)
        others = sorted({other for order in orders for other in order if other != name})
        losses = [after(*order) for order in orders]
        pairs = zip(orders, losses, strict=True)
        each = [{"prefixes": list(order), "loss": loss} for order, loss in pairs]
        return {
            "own": own,
            "another's": mean(after(other) for other in others),
            "together": mean(losses),
            "highest together": max(losses),
            "together / own": mean(losses) / own,
            "each": each,
        }

    def _loss(self, examples: Dataset, kv: KVPrefix | None) -> float:
        model = prefixed_model(self._frozen, kv, self._always_visible).eval()
        loss = target_loss_of(model, following(examples, model.begins_text), self._max_tokens)
        model.detach()
        return loss
