"""Where a prefix can start: the `initializations` section."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.section import Count, Section


class Start(Section):
    """What every initialisation has: `path` is what it is made from, so that DVC watches it."""

    path: str


class Random(Start):
    """Normal noise, as PEFT starts a prefix; drawn anew for each seed."""

    type: Literal["random"]
    scale: Annotated[float, Field(gt=0)] = 1.0


class CorpusText(Start):
    """The KV cache of the first tokens of a text file."""

    type: Literal["corpus_text"]
    use_chat_template: bool = False


class Demonstrations(Start):
    """The KV cache of examples of the training split, rendered one after another."""

    type: Literal["demonstrations"]
    template: str | None = None
    max_examples: Count = 64
    seed: int = 0


Initialization = Annotated[
    Random | CorpusText | Demonstrations,
    Field(discriminator="type"),
]

TEXT_BASED = (CorpusText, Demonstrations)
"""Initialisations whose prefix is the first p entries of one KV cache."""
