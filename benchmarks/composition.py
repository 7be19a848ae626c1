"""`python -m benchmarks.composition`: prefixes of several documents, alone and together.

A document is a country's profile in the World Factbook; its prefix starts from the cache of its
first tokens, and is trained on questions about its fields. Each document's held-out questions ask
for the same fields in words that training never saw. Prefixes are trained alone, and again from the
same start for as many steps with the others' as distractors; then two of them stand together, in
either order, and answer the questions about either.
"""

import itertools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from datasets import Dataset
from tabulate import tabulate
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.config import load_params
from pipeline.config.data import FactbookData
from pipeline.config.prefix import DistractorParams
from pipeline.config.train import TrainParams
from pipeline.models.frozen import load_frozen_model
from pipeline.models.prefixed import prefixed_model
from pipeline.models.tokenizer import load_tokenizer
from pipeline.prefix import KVPrefix, PrefixConfig, PrefixModel, kv_prefix_from_text
from pipeline.prefix.composition import composed
from pipeline.schema.compute import Compute
from pipeline.sources.factbook import factbook_rows
from pipeline.training.distractors import Distractors
from pipeline.training.loop import train_prefix
from pipeline.training.validation import target_loss_of

ASKED = (
    "{name}: what is the {field}?",
    "What does the profile of {name} say of its {field}?",
    "{field} ({name}):",
)
HELD_OUT = "Tell me the {field} of {name}."
_TOKENS_AT_ONCE = 4096


@dataclass(frozen=True)
class Document:
    """What is known of something: the value of each of its fields."""

    name: str
    facts: Mapping[str, str]

    @property
    def text(self) -> str:
        """The document itself."""
        return "\n".join([self.name, *(f"{name}: {value}" for name, value in self.facts.items())])


@dataclass(frozen=True)
class Settings:
    """How long and how a prefix is trained."""

    length: int = 32
    steps: int = 120
    probability: float = 0.5
    seeds: tuple[int, ...] = (0,)
    train: Mapping[str, Any] = field(default_factory=lambda: {"learning_rate": 5e-3})

    @property
    def params(self) -> TrainParams:
        """Those of `train`; the prefix of the last step is the result."""
        settings = {"max_steps": self.steps, "epochs": None, "eval_every_steps": None}
        return TrainParams(**{**settings, "warmup_steps": min(5, self.steps - 1), **self.train})


class Measurement:
    """Documents on one frozen model: their questions, their trained prefixes, and their losses."""

    def __init__(
        self,
        frozen: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        documents: Sequence[Document],
        settings: Settings,
    ) -> None:
        self._frozen, self._tokenizer = frozen, tokenizer
        self._documents, self._settings = documents, settings
        self._train = {d.name: self._examples(d, ASKED) for d in documents}
        self._test = {d.name: self._examples(d, [HELD_OUT]) for d in documents}

    def rows(self) -> list[dict[str, Any]]:
        """Nats per target token of held-out questions: the mean over documents and seeds."""
        found: dict[str, list[float]] = {}
        for seed in self._settings.seeds:
            for name, loss in self._of_seed(seed):
                found.setdefault(name, []).append(loss)
        right = statistics.mean(found["its own prefix, trained alone"])
        return [
            {
                "before the question": name,
                "loss": (mean := statistics.mean(losses)),
                "lowest": min(losses),
                "highest": max(losses),
                "times its own": mean / right,
            }
            for name, losses in found.items()
        ]

    def _of_seed(self, seed: int) -> Iterator[tuple[str, float]]:
        starts = {
            d.name: kv_prefix_from_text(
                self._frozen, self._tokenizer, d.text, self._settings.length
            )
            for d in self._documents
        }
        alone = {name: self._trained(name, kv, seed, {}) for name, kv in starts.items()}
        among = {
            name: self._trained(name, kv, seed, {n: o for n, o in alone.items() if n != name})
            for name, kv in starts.items()
        }
        for name in starts:
            yield "nothing", self._loss(name, None)
            yield "its own prefix, untrained", self._loss(name, starts[name])
        ways = (("trained alone", alone), ("trained with distractors", among))
        for (way, prefixes), name in itertools.product(ways, starts):
            yield f"its own prefix, {way}", self._loss(name, prefixes[name])
            for other in (n for n in starts if n != name):
                yield f"another's prefix, {way}", self._loss(name, prefixes[other])
                for pair in ((name, other), (other, name)):
                    kv = composed(self._frozen, [prefixes[n] for n in pair], pair)
                    yield f"its own and another's, {way}", self._loss(name, kv)

    def _trained(
        self, name: str, start: KVPrefix, seed: int, others: Mapping[str, KVPrefix]
    ) -> KVPrefix:
        model = PrefixModel(self._frozen, PrefixConfig(len(start)))
        model.load_kv_prefix(start)
        train, test = self._train[name], self._test[name]
        distractors = None
        if others:
            params = DistractorParams(count=1, probability=self._settings.probability)
            longest = max(map(len, train["input_ids"]))
            distractors = Distractors(model, others, params, seed, longest)
        train_prefix(
            *(model, train, test, self._settings.params, seed, lambda *_: None),
            beside=None if distractors is None else distractors.model_of,
        )
        kv = model.kv_prefix()
        assert kv is not None
        model.detach()
        if distractors is not None:
            distractors.detach()
        return kv

    def _loss(self, name: str, kv: KVPrefix | None) -> float:
        model = prefixed_model(self._frozen, kv).eval()
        loss = target_loss_of(model, self._test[name], _TOKENS_AT_ONCE)
        model.detach()
        return loss

    def _examples(self, document: Document, asked: Sequence[str]) -> Dataset:
        rows = []
        for name, value in document.facts.items():
            for template in asked:
                question = template.format(name=document.name, field=name)
                message = [{"role": "user", "content": question}]
                prompt = self._tokenizer.apply_chat_template(
                    message, tokenize=False, add_generation_prompt=True
                )
                ids, answer = (
                    self._tokenizer.encode(text, add_special_tokens=False)
                    for text in (str(prompt), f"{value}{self._tokenizer.eos_token}")
                )
                rows.append({"input_ids": [*ids, *answer], "target_start": len(ids)})
        return Dataset.from_list(rows)


def countries(names: Sequence[str], data: FactbookData, most: int) -> list[Document]:
    """Countries of the factbook with up to so many of their fields.

    Raises click.UsageError for one that it does not have.
    """
    facts: dict[str, dict[str, str]] = {name: {} for name in names}
    whole = data.model_copy(update={"examples_per_country": 2 * most})
    for split in factbook_rows(whole, Path("data")).values():
        for row in split:
            known = facts.get(row["country"])
            if known is not None and len(known) < most:
                known.setdefault(row["field"], row["answer"])
    if lacking := [name for name, known in facts.items() if not known]:
        raise click.UsageError(f"--country: the factbook has no {lacking[0]}")
    return [Document(name, known) for name, known in facts.items()]


@click.command()
@click.option("--model", type=click.Path(path_type=Path, exists=True), default=Path("data/model"))
@click.option("--country", "names", multiple=True, default=["Kenya", "Norway", "Peru"])
@click.option("--fields", type=click.IntRange(1), default=40, help="Of each country, at the most.")
@click.option("--length", type=click.IntRange(1), default=32, help="Virtual tokens.")
@click.option("--steps", type=click.IntRange(1), default=120, help="Of each training.")
@click.option("--seeds", type=click.IntRange(1), default=1, help="Trainings of each.")
def main(
    model: Path, names: tuple[str, ...], fields: int, length: int, steps: int, seeds: int
) -> None:
    """Print the losses of three countries' held-out questions; DVC has fetched the model."""
    data = load_params().data
    if not isinstance(data, FactbookData):
        raise click.UsageError("data.source of params.yaml is not factbook")
    documents = countries(names, data, fields)
    frozen = load_frozen_model(model, Compute())
    settings = Settings(length, steps, seeds=tuple(range(seeds)))
    rows = Measurement(frozen, load_tokenizer(model), documents, settings).rows()
    print(tabulate(rows, headers="keys", floatfmt=".3f", tablefmt="github"))


if __name__ == "__main__":
    main()
