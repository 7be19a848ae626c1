"""A server's slots, shared by several prefixes: each request has one of its own, restored for it.

llama.cpp takes another request's slot for a prompt without a word, and then reads the placeholders
of a lost prefix as words. So a slot answers one request at a time, the prefix is restored before
it, and no token leaves before the server said that exactly the p cells of the prefix came from its
cache (`timings.cache_n`). Where they did not, the slot is restored and asked again.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2

from pipeline.serving.llama_cpp.server import reason_of
from pipeline.serving.refusals import Refusal, queue_full

_TRIES = 3


@dataclass(frozen=True)
class ServedPrefix:
    """A prefix that a server can restore.

    Attributes:
        name: what requests call it.
        state: its file's name in the server's state folder; None for the frozen model alone.
        placeholders: the p token ids that its file stands for.
        begins_text: whether inputs after it have no BOS of their own.
    """

    name: str
    state: str | None = None
    placeholders: tuple[int, ...] = ()
    begins_text: bool = False


@dataclass
class Slots:
    """The slots of a server, each free or answering one request.

    Attributes:
        client: connections to the server; its base URL is the server's address.
        count: how many slots there are.
        max_waiting: requests that wait for one at the most; more are refused.
        waiting: how many wait.
        read_tokens: of inputs, since the start; `generated_tokens` likewise of answers.
        mended: how often a prefix was lost, and restored and asked for again.
    """

    client: httpx2.AsyncClient
    count: int
    max_waiting: int = 256
    waiting: int = 0
    read_tokens: int = 0
    generated_tokens: int = 0
    mended: int = 0
    _free: "asyncio.Queue[int]" = field(default_factory=asyncio.Queue)

    def __post_init__(self) -> None:
        for slot in range(self.count):
            self._free.put_nowait(slot)

    @property
    def running(self) -> int:
        """How many slots answer a request."""
        return self.count - self._free.qsize()

    async def answer(
        self, prefix: ServedPrefix, prompt: Sequence[int], settings: Mapping[str, Any]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The server's chunks of an answer to `prompt` after the prefix, as they are made.

        Args:
            prefix: whose state is restored.
            prompt: token ids, at least one.
            settings: entries of llama.cpp's `/completion`.

        Raises:
            Refusal: when too many wait already, and when the server refuses, is out of reach, or
                loses the prefix each time.
        """
        asked = {**settings, "prompt": [*prefix.placeholders, *prompt], "stream": True}
        asked |= {"timings_per_token": True, "return_tokens": True}
        asked["cache_prompt"] = prefix.state is not None
        slot = await self._taken()
        try:
            for _ in range(_TRIES):
                await self._prepare(slot, prefix)
                async with self._chunks({**asked, "id_slot": slot}) as chunks:
                    first = await anext(chunks, None)
                    if first is None or not _kept(first, prefix):
                        self.mended += 1
                        continue
                    self.read_tokens += len(prompt)
                    yield self._counted(first)
                    async for chunk in chunks:
                        yield self._counted(chunk)
                    return
        finally:
            self._free.put_nowait(slot)
        raise Refusal(
            503,
            f"llama.cpp's server lost the prefix {prefix.name} {_TRIES} times between restoring "
            "and reading it, and no answer without it is given: let no other client use it",
            code="prefix_lost",
        )

    async def _taken(self) -> int:
        """A slot that is free, as soon as there is one."""
        if self._free.empty() and self.waiting >= self.max_waiting:
            raise queue_full()
        self.waiting += 1
        try:
            return await self._free.get()
        finally:
            self.waiting -= 1

    def _counted(self, chunk: dict[str, Any]) -> dict[str, Any]:
        self.generated_tokens += len(chunk.get("tokens", ()))
        return chunk

    async def _prepare(self, slot: int, prefix: ServedPrefix) -> None:
        if prefix.state is None:
            return
        path = f"/slots/{slot}?action=restore"
        try:
            response = await self.client.post(path, json={"filename": prefix.state})
        except httpx2.HTTPError as error:
            raise _out_of_reach(error) from error
        if not response.is_success:
            raise Refusal(
                502,
                f"llama.cpp's server cannot restore {prefix.name}: {reason_of(response)}",
                code="restore_failed",
            )

    @asynccontextmanager
    async def _chunks(
        self, asked: Mapping[str, Any]
    ) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """The chunks of a stream; leaving early closes it, at which the server stops computing."""
        try:
            async with self.client.stream("POST", "/completion", json=asked) as response:
                if not response.is_success:
                    await response.aread()
                    status = 400 if response.status_code == 400 else 502
                    raise Refusal(status, reason_of(response), code="engine_refused")
                yield _events(response)
        except httpx2.HTTPError as error:
            raise _out_of_reach(error) from error


async def _events(response: httpx2.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in response.aiter_lines():
        kind, _, content = line.partition(": ")
        if kind == "data" and content != "[DONE]":
            chunk = json.loads(content)
            if "error" in chunk:
                raise Refusal(502, str(chunk["error"].get("message")), code="engine_failed")
            yield chunk
        elif kind == "error":
            raise Refusal(502, content, code="engine_failed")


def _kept(first: Mapping[str, Any], prefix: ServedPrefix) -> bool:
    """Whether the cells that the answer goes on from are those of the prefix, all and alone."""
    return bool(first.get("timings", {}).get("cache_n") == len(prefix.placeholders))


def _out_of_reach(error: Exception) -> Refusal:
    sentence = f"llama.cpp's server is out of reach ({type(error).__name__})"
    return Refusal(502, sentence, code="engine_out_of_reach")
