"""One request from its choices to its answer, whole or as a stream; who has gone frees rows."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from pipeline.serving.batching.choice import Choice, Piece
from pipeline.serving.batching.scheduler import ClosedError, QueueFullError, Scheduler
from pipeline.serving.protocol.answers import Form
from pipeline.serving.protocol.departure import GoneError, departure
from pipeline.serving.protocol.events import DONE, event_of
from pipeline.serving.protocol.metrics import Counting, Metrics
from pipeline.serving.refusals import Refusal, ending, queue_full

Emit = Callable[[Piece], None]

_GONE = -1  # in place of a choice's index


class Exchange:
    """A request whose choices are submitted when it is made.

    Args:
        request: whose client may go away, which frees its rows.
        make: the choices, of the functions that take their pieces, one a choice.
        count: how many they are.

    Raises:
        Refusal: when the scheduler takes nothing more.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        metrics: Metrics,
        form: Form,
        request: Request,
        count: int,
        make: Callable[[Sequence[Emit]], Sequence[Choice]],
    ) -> None:
        self._scheduler, self._form = scheduler, form
        self._counting = Counting(metrics, form.model)
        self._pieces: asyncio.Queue[tuple[int, Piece]] = asyncio.Queue()
        self._left = count
        loop = asyncio.get_running_loop()

        def emit_of(index: int) -> Emit:
            def emit(piece: Piece) -> None:
                # The computing thread goes on, whatever became of the loop of a server that ended.
                if not loop.is_closed():
                    loop.call_soon_threadsafe(self._pieces.put_nowait, (index, piece))

            return emit

        self._choices = make([emit_of(index) for index in range(count)])
        try:
            scheduler.submit(self._choices)
        except QueueFullError:
            raise queue_full() from None
        except ClosedError:
            raise ending() from None
        self._watching = asyncio.create_task(self._watch(request))

    async def whole(self) -> Response:
        """The answer when all of it is there; nobody reads that of a client that has gone."""
        status = "gone"
        found: list[list[Piece]] = [[] for _ in self._choices]
        try:
            async for index, piece in self._arriving():
                if piece.error is not None:
                    status = "500"
                    raise Refusal(500, piece.error)
                found[index].append(piece)
            status = "200"
            return JSONResponse(self._form.whole(found, self._usage()))
        except GoneError:
            return Response(status_code=499)
        finally:
            self._end(status)

    def stream(self, wants_usage: bool) -> Response:
        """The answer piece by piece, as server-sent events."""
        return StreamingResponse(
            self._events(wants_usage),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )

    async def _events(self, wants_usage: bool) -> AsyncIterator[str]:
        status = "gone"
        usage = {"usage": None} if wants_usage else {}
        offsets = [0] * len(self._choices)
        try:
            for index in range(len(self._choices)):
                if (beginning := self._form.beginning(index)) is not None:
                    yield event_of({**beginning, **usage})
            async for index, piece in self._arriving():
                if piece.error is not None:
                    status = "500"
                    yield event_of(Refusal(500, piece.error).body)
                    return
                yield event_of({**self._form.piece(index, piece, offsets[index]), **usage})
                offsets[index] += len(piece.text)
            if wants_usage:
                yield event_of(self._form.chunk([], usage=self._usage()))
            yield DONE
            status = "200"
        except GoneError:
            return
        finally:
            self._end(status)

    async def _arriving(self) -> AsyncIterator[tuple[int, Piece]]:
        while self._left:
            index, piece = await self._pieces.get()
            if index == _GONE:
                raise GoneError
            self._counting.first()
            self._left -= piece.is_last
            yield index, piece

    def _usage(self) -> dict[str, int]:
        """Tokens of inputs, each counted once, and of answers; virtual ones are none."""
        inputs = {id(each.beginning.input_ids): each.beginning.input_ids for each in self._choices}
        read = sum(len(ids) for ids in inputs.values())
        written = sum(len(each.tokens) for each in self._choices)
        return {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
        }

    async def _watch(self, request: Request) -> None:
        await departure(request)
        self._scheduler.cancel(self._choices)
        self._pieces.put_nowait((_GONE, Piece()))

    def _end(self, status: str) -> None:
        self._watching.cancel()
        if self._left:
            self._scheduler.cancel(self._choices)
        self._counting.end(status)
