"""What a self-study is to ask, and what that takes, before any of it is asked."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from pipeline.config.self_study import SeedPrompt, SelfStudy, ServerGenerator, StudySettings
from pipeline.corpus.chunks import chunks_of
from pipeline.corpus.documents import read_documents
from pipeline.self_study.writing import Request


@dataclass(frozen=True)
class StudiedChunk:
    """A chunk, with the document that it is from, its number there, and its tokens."""

    document: str
    number: int
    context: str
    tokens: int


@dataclass(frozen=True)
class Plan:
    """The chunks of a corpus, and what is asked of each; `key` is its section in params.yaml."""

    settings: StudySettings
    documents: int
    chunks: Sequence[StudiedChunk]
    key: str

    def prompts(self, index: int) -> list[SeedPrompt]:
        """The prompts of the questions about a chunk: all in turn, from chunk to chunk."""
        prompts, count = self.settings.prompts, self.settings.questions_per_chunk
        return [prompts[(index * count + number) % len(prompts)] for number in range(count)]

    def request(self, index: int, number: int, ask: str, what: str) -> Request:
        """A request about a chunk, whose seed depends on nothing but what it is about.

        `what` is the question or the answer of this number. Other chunks, and how many there are,
        change nothing of it.
        """
        chunk, kind = self.chunks[index], self.prompts(index)[number].kind
        named = (self.settings.seed, chunk.document, chunk.number, kind, number, what)
        digest = hashlib.sha256("\0".join(map(str, named)).encode()).digest()
        return Request(ask, int.from_bytes(digest[:8]) >> 1)

    @property
    def questions(self) -> int:
        """How many questions are asked for."""
        return len(self.chunks) * self.settings.questions_per_chunk

    @property
    def tokens(self) -> int:
        """The tokens of all chunks."""
        return sum(chunk.tokens for chunk in self.chunks)

    @property
    def most_written(self) -> int:
        """The most tokens that are written: every question and answer as long as it may be."""
        settings = self.settings
        return self.questions * (settings.max_question_tokens + settings.max_answer_tokens)

    @cached_property
    def read(self) -> int:
        """The tokens of chunks that are read: by a server anew with each call."""
        each_call = isinstance(self.settings.generator, ServerGenerator)
        return self.tokens * (2 * self.settings.questions_per_chunk if each_call else 1)

    def size(self, name: str) -> str:
        """What all of it takes at the most, as a sentence."""
        calls = (
            "calls of the server"
            if isinstance(self.settings.generator, ServerGenerator)
            else "texts written"
        )
        return (
            f"{name}: {self.documents} documents of {self.tokens} tokens in {len(self.chunks)} "
            f"chunks; {self.questions} questions and as many answers, at most {2 * self.questions} "
            f"{calls}, {self.read} tokens of chunks read and {self.most_written} tokens written"
        )


def plan_of(name: str, settings: SelfStudy, tokenizer: PreTrainedTokenizerBase) -> Plan:
    """The plan for a corpus. Raises PipelineError for documents that cannot be read."""
    return plan_for(Path(settings.path), f"self_study.{name}", "path", settings, tokenizer)


def plan_for(
    path: Path, key: str, named: str, settings: StudySettings, tokenizer: PreTrainedTokenizerBase
) -> Plan:
    """As `plan_of`, for a file or folder that the key `named` below the section `key` names."""
    documents = 0
    chunks: list[StudiedChunk] = []
    for document in read_documents(path, f"{key}.{named}"):
        documents += 1
        parts = chunks_of(document.text, tokenizer, settings.chunk_tokens)
        for number, part in enumerate(parts):
            context = part.text.strip()
            if context:
                chunks.append(StudiedChunk(document.name, number, context, len(part.token_ids)))
    return Plan(settings, documents, chunks, key)
