"""What a self-study is to ask, and what that takes, before any of it is asked."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from pipeline.config.self_study import (
    RECITE,
    SeedPrompt,
    SelfStudy,
    ServerGenerator,
    StudySettings,
)
from pipeline.corpus.chunks import chunks_of
from pipeline.corpus.documents import Document, read_documents
from pipeline.corpus.headings import headings_above, is_markdown
from pipeline.corpus.seed_prompts import SUMMARY
from pipeline.errors import PipelineError
from pipeline.self_study.reciting import Recital, recitals
from pipeline.self_study.writing import Request

_LEAST_SUMMARY = 16
"""Tokens of a chunk's summary, at the least."""

# In English four tokens hold about three words.
_WORDS, _TOKENS = 3, 4


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
        return Request(ask, self._seed(index, self.prompts(index)[number].kind, number, what))

    @property
    def summary_share(self) -> int:
        """The most tokens of each chunk's summary; 0 for no summaries."""
        return (self.settings.summary_tokens or 0) // max(1, len(self.chunks))

    def summary_request(self, index: int) -> Request:
        """The request for a chunk's summary, in about as many words as there is room for."""
        ask = SUMMARY.format(words=self.summary_share * _WORDS // _TOKENS)
        return Request(ask, self._seed(index, "summary of the chunk"))

    def recitals(self, index: int) -> list[Recital]:
        """The questions about a chunk whose answer is its own text."""
        chunk, count = self.chunks[index], self.settings.recitals_per_chunk
        seed = self._seed(index, RECITE)
        return recitals(chunk.context, chunk.document, count, seed)

    def _seed(self, index: int, *what: object) -> int:
        chunk = self.chunks[index]
        named = (self.settings.seed, chunk.document, chunk.number, *what)
        digest = hashlib.sha256("\0".join(map(str, named)).encode()).digest()
        return int.from_bytes(digest[:8]) >> 1

    @property
    def kinds(self) -> list[str]:
        """The kinds of questions that there can be."""
        kinds = [prompt.kind for prompt in self.settings.prompts]
        return [*kinds, RECITE] if self.settings.recitals_per_chunk else kinds

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
        """The most tokens that are written: every text as long as it may be."""
        settings = self.settings
        each = settings.max_question_tokens + settings.max_answer_tokens
        return self.questions * each + self.summary_share * len(self.chunks)

    @cached_property
    def read(self) -> int:
        """The tokens of chunks that are read: by a server anew with each call."""
        each_call = isinstance(self.settings.generator, ServerGenerator)
        calls = 2 * self.settings.questions_per_chunk + bool(self.summary_share)
        return self.tokens * (calls if each_call else 1)

    def size(self, name: str) -> str:
        """What all of it takes at the most, as a sentence."""
        calls = (
            "calls of the server"
            if isinstance(self.settings.generator, ServerGenerator)
            else "texts written"
        )
        summaries = len(self.chunks) if self.summary_share else 0
        asked = f"{self.questions} questions and as many answers"
        if summaries:
            asked += f", and {summaries} summaries"
        return (
            f"{name}: {self.documents} documents of {self.tokens} tokens in {len(self.chunks)} "
            f"chunks; {asked}, at most {2 * self.questions + summaries} "
            f"{calls}, {self.read} tokens of chunks read and {self.most_written} tokens written"
        )


def plan_of(name: str, settings: SelfStudy, tokenizer: PreTrainedTokenizerBase) -> Plan:
    """The plan for a corpus.

    Raises PipelineError for documents that cannot be read, and too short a summary of them.
    """
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
        begin = 0
        for number, part in enumerate(parts):
            context = _with_headings(document, begin, part.text)
            begin += len(part.text)
            if context:
                chunks.append(StudiedChunk(document.name, number, context, len(part.token_ids)))
    plan = Plan(settings, documents, chunks, key)
    if settings.summary_tokens is not None and plan.summary_share < _LEAST_SUMMARY:
        raise PipelineError(
            f"{key}.summary_tokens: {settings.summary_tokens} are "
            f"{plan.summary_share} for each of {len(chunks)} chunks, too few for a sentence; give "
            f"at least {_LEAST_SUMMARY * len(chunks)}, or raise chunk_tokens"
        )
    return plan


def _with_headings(document: Document, begin: int, part: str) -> str:
    """A chunk of Markdown below the headings that hold there; "" for one without words."""
    own = part.strip()
    if not own or not is_markdown(document.name):
        return own
    begin += len(part) - len(part.lstrip())
    above = [f"{'#' * level} {words}" for level, words in headings_above(document.text, begin)]
    return "\n\n".join([*above, own])
