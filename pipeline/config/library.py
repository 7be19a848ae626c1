"""A prefix for each of many documents, to stand beside each other: the `library` section."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.blocks import refuse_nothing_to_move
from pipeline.config.prefix import DistractorParams, PrefixParams
from pipeline.config.self_study import FrozenModelGenerator, StudySettings
from pipeline.config.train import TrainParams
from pipeline.schema.compute import Compute
from pipeline.schema.section import Count, GivenPath, Name, Section, Seed

_READ_BY_DVC = ("self_study", "held_out", "prefix", "train", "distractors", "together")


class DocumentPrefix(PrefixParams):
    """The prefix of each document, and what it starts from: the cache of its own text's tokens.

    `start`: the first tokens (`text`), or chunks spread over all of it (`chunks`).
    """

    length: Count = 64
    start: Literal["text", "chunks"] = "text"
    chunk_tokens: Count = 8
    seed: Seed = 0

    @property
    def encoder(self) -> PrefixParams:
        """What it has in common with the section `prefix`."""
        return PrefixParams(**{key: getattr(self, key) for key in PrefixParams.model_fields})


class OtherDocuments(Section):
    """The prefixes of other documents, frozen, that stand beside one in some of its steps.

    `count` of them at once, 0 for none. `start`: the second round begins where the first began
    (`text`), or with the prefix that the first came to (`alone`).
    """

    count: Annotated[int, Field(ge=0)] = 1
    probability: Annotated[float, Field(gt=0, le=1)] = 0.5
    start: Literal["text", "alone"] = "text"

    @property
    def drawn(self) -> DistractorParams:
        """What is drawn of them in a step."""
        return DistractorParams(count=self.count, probability=self.probability)


class Together(Section):
    """A measurement of several prefixes at once: `count` in all, in `draws` ways a document."""

    count: Annotated[int, Field(ge=2)] = 2
    draws: Count = 4
    seed: Annotated[int, Field(ge=0)] = 0


class LibraryParams(Section):
    """Documents by name, each a text; how a prefix is made of each; what is measured of several.

    `held_out` is a folder with a person's own questions about a document, `<name>.jsonl` or the
    like; a document without is measured on what self-study keeps for validation.
    """

    documents: dict[Name, GivenPath] = Field(default_factory=dict)
    held_out: GivenPath = "requirements.lock"
    self_study: StudySettings = StudySettings()
    prefix: DocumentPrefix = DocumentPrefix()
    train: TrainParams = TrainParams()
    distractors: OtherDocuments = OtherDocuments()
    together: dict[Name, Together] = Field(default_factory=dict)

    def computing(self) -> dict[str, Compute]:
        """What computes with the frozen model, by its key's path."""
        if not self.documents:
            return {}
        found: dict[str, Compute] = {"library.train": self.train}
        if isinstance(self.self_study.generator, FrozenModelGenerator):
            found["library.self_study.generator"] = self.self_study.generator
        return found


def refuse_impossible_library(library: LibraryParams) -> None:
    """Raise ValueError for what a library lacks, or what of it does not go together."""
    _refuse_missing(library)
    if library.train.objective.distilled:
        raise ValueError(
            "library.train.objective: a library is trained on the answers of self-study; leave it "
            "out"
        )
    prefix = library.prefix
    _refuse_unlike_others(prefix)
    if library.train.state_learning_rate is not None:
        raise ValueError(
            f"library.train.state_learning_rate: {library.train.state_learning_rate} is of initial "
            "states, and prefixes that stand beside others have none; set it to null"
        )
    if prefix.num_frozen_tokens >= prefix.length:
        raise ValueError(
            f"library.prefix.num_frozen_tokens: {prefix.num_frozen_tokens} leaves nothing to train "
            f"of {prefix.length} virtual tokens; lower it"
        )
    refuse_nothing_to_move(prefix, library.train, "library.")
    _refuse_too_few(library)


def _refuse_unlike_others(prefix: DocumentPrefix) -> None:
    """Raise ValueError for what of the section `prefix` a document's prefix cannot have."""
    if prefix.distractors != DistractorParams():
        raise ValueError(
            "library.prefix.distractors: those of a library are its other documents; write count "
            "and probability under library.distractors"
        )
    if "state" in (prefix.kinds or ()):
        raise ValueError(
            "library.prefix.kinds: states cannot stand beside others; use [attention], or null"
        )
    if prefix.parts not in (None, ["decoder"]):
        raise ValueError(
            f"library.prefix.parts: {prefix.parts} needs a model with an encoder, and a library "
            "needs a decoder alone; use null"
        )
    if prefix.modules_to_save:
        raise ValueError(
            f"library.prefix.modules_to_save: {prefix.modules_to_save} would be trained for each "
            "document, and a model that has several prefixes at once uses one of each; use null"
        )
    if prefix.leave_one_out:
        raise ValueError(
            "library.prefix.leave_one_out: true hides training examples that a prefix started "
            "from, and a document's starts from its text; set it to false"
        )


def _refuse_missing(library: LibraryParams) -> None:
    for key in _READ_BY_DVC:
        if library.documents and key not in library.model_fields_set:
            fix = "requirements.lock, for no questions" if key == "held_out" else "{}"
            raise ValueError(f"library.{key}: is missing, and DVC reads it; add {key}: {fix}")


def _refuse_too_few(library: LibraryParams) -> None:
    documents, count = len(library.documents), library.distractors.count
    if documents and count >= documents:
        raise ValueError(
            f"library.distractors.count: {count} others at once are more than there are beside one "
            f"of {documents} documents; lower it, to 0 for none"
        )
    for name, together in library.together.items():
        if together.count > documents:
            raise ValueError(
                f"library.together.{name}.count: {together.count} prefixes at once are more than "
                f"the {documents} documents; lower it, or leave {name} out"
            )
