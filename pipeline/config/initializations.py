"""Where a prefix can start: the `initializations` section."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.schema.section import Count, Section


class Start(Section):
    """What every initialisation has: `path` is what it is made from, so that DVC watches it."""

    path: str


class Random(Start):
    """Normal noise, as PEFT starts a prefix; drawn anew for each seed."""

    type: Literal["random"]
    scale: Annotated[float, Field(gt=0)] = 1.0


class Zero(Start):
    """Keys and values of zero, PEFT's `init_weights="zero"`."""

    type: Literal["zero"]


class Vocabulary(Start):
    """The KV cache of words, given or drawn anew for each seed (the paper's real words)."""

    type: Literal["vocabulary"]
    words: Annotated[list[str], Field(min_length=1)] | None = None


class CorpusText(Start):
    """The KV cache of a text file's tokens, from `skip_tokens` on."""

    type: Literal["corpus_text"]
    use_chat_template: bool = False
    skip_tokens: Annotated[int, Field(ge=0)] = 0


class CorpusChunks(Start):
    """The KV cache of chunks spread evenly over a long text file."""

    type: Literal["corpus_chunks"]
    chunk_tokens: Count = 8


class Demonstrations(Start):
    """The KV cache of examples of the training split, rendered one after another."""

    type: Literal["demonstrations"]
    template: str | None = None
    max_examples: Count = 64
    seed: int = 0


class MostAttended(Start):
    """The cached tokens of a text file that training inputs attend to most."""

    type: Literal["most_attended"]
    corpus_tokens: Count = 512
    inputs: Count = 16


class PrefixFile(Start):
    """A prefix of an earlier training: `.safetensors` of this project, or a PEFT adapter folder."""

    type: Literal["prefix_file"]


class TrainedVariant(Start):
    """Another variant of this sweep at its trained state; cut or stretched to the length."""

    type: Literal["trained_variant"]


Initialization = Annotated[
    Random
    | Zero
    | Vocabulary
    | CorpusText
    | CorpusChunks
    | Demonstrations
    | MostAttended
    | PrefixFile
    | TrainedVariant,
    Field(discriminator="type"),
]

FROM_FILE = (CorpusText, CorpusChunks, MostAttended)
"""Initialisations whose `path` is a text file of the user's."""

TEXT_BASED = (CorpusText, CorpusChunks, Demonstrations)
"""Initialisations whose prefix is the first p entries of one KV cache of `kv_prefix.max_length`."""
