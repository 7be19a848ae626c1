"""Connections within bounds: how many are open, and how long each may be without a request.

uvicorn bounds neither a connection that says nothing nor one that sends half a request's head, and
tells errors of its own as plain text.
"""

import asyncio
import socket
import sys
from collections import OrderedDict
from collections.abc import MutableMapping
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from pipeline.serving.protocol.guard import App, Receive, Send
from pipeline.serving.refusals import Refusal, too_late, too_many_connections

BACKLOG = 512
"""Connections that the system keeps before they are accepted, and that are accepted at once."""

_OTHER_FILES = 128  # descriptors for what is no connection: the model's files, logs, pipes
_REFUSING = 16  # of so many connections one is for telling further requests that they are many


class BoundedConfig(uvicorn.Config):
    """uvicorn's settings, for HTTP/1.1 by h11, with bounds on connections.

    Args:
        app: whose requests they are.
        max_connections: that are open at once. Those beyond take the place of whichever has been
            without a request for longest; a request for which no place is left is refused (503).
        patience: seconds until a request's head has to be there, from the connection's or the last
            answer's on. A connection without a byte of it is closed, half a head refused (408). On
            Linux also seconds within which a client has to take more of its answer, or is closed.
        settings: uvicorn's own.
    """

    def __init__(
        self, app: App, *, max_connections: int, patience: float = 30.0, **settings: Any
    ) -> None:
        super().__init__(
            app,
            http=BoundedProtocol,
            ws="none",
            backlog=BACKLOG,
            server_header=False,
            access_log=False,
            **settings,
        )
        self.max_connections, self.patience = max_connections, patience
        self.silent: OrderedDict[BoundedProtocol, None] = OrderedDict()
        """Connections without a request, the one that has been so for longest first."""

    @property
    def max_requests(self) -> int:
        """Requests, one a connection, that are taken at once."""
        return max(1, self.max_connections - -(-self.max_connections // _REFUSING))


class BoundedProtocol(H11Protocol):
    """A connection of `BoundedConfig`."""

    config: BoundedConfig

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As asyncio calls it."""
        super().connection_made(transport)
        self._waiting: asyncio.TimerHandle | None = None
        if sys.platform == "linux":
            # Else whoever reads nothing of a long answer would keep a place for good.
            option = socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT
            connection = transport.get_extra_info("socket")
            connection.setsockopt(*option, int(self.config.patience * 1000))
        if len(self.connections) > self.config.max_connections:
            oldest = next(iter(self.config.silent), self)
            oldest.give_way()
        if not transport.is_closing():
            self._wait()

    def give_way(self) -> None:
        """Close, for another's sake."""
        self._wait_no_more()
        self.connections.discard(self)
        if self.cycle is None:
            # Its request may be on its way.
            self._tell(too_many_connections())
        else:
            # Not `close`, which waits for a client that does not read its last answer.
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """As asyncio calls it."""
        self._wait_no_more()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """As uvicorn calls it when there is more to read."""
        taken = len(self.connections) - len(self.config.silent)
        has_place = self not in self.config.silent or taken < self.config.max_requests
        self.app = self.config.loaded_app if has_place else _refuse
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._wait_no_more()

    def on_response_complete(self) -> None:
        """As uvicorn calls it; a next request may have come already."""
        if not self.transport.is_closing():
            self._wait()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """As uvicorn calls it for what is no HTTP."""
        self._tell(Refusal(400, msg))

    def _wait(self) -> None:
        self.config.silent[self] = None
        self._waiting = self.loop.call_later(self.config.patience, self._lose_patience)

    def _wait_no_more(self) -> None:
        self.config.silent.pop(self, None)
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _lose_patience(self) -> None:
        if self.conn.trailing_data[0]:
            self._tell(too_late(self.config.patience))
        else:
            self.transport.close()

    def _tell(self, refusal: Refusal) -> None:
        """Answer what has become no request, where that can be, and close."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()
            return
        answer = refusal.response
        head = h11.Response(
            status_code=answer.status_code, headers=[*answer.raw_headers, (b"connection", b"close")]
        )
        for event in (head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def allowed_connections(wanted: int) -> int:
    """`wanted`, or as many as the process may have files open for; raises its limit to the most."""
    if sys.platform == "win32":
        return wanted
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    except (OSError, ValueError):  # some systems allow less than they say
        pass
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, soft - BACKLOG - _OTHER_FILES))


async def _refuse(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
    """The application for requests that have no place."""
    await too_many_connections().response(scope, receive, send)
