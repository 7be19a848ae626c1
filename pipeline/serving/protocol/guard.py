"""What stands before the application: the key, and bodies that are too large or never end."""

import asyncio
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from pipeline.serving.refusals import Refusal

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

_MOST_BYTES = 4 * 2**20  # of a request's body
_PATIENCE = 30.0  # seconds for a body to come
_OPEN = ("/health",)  # asked by what starts and stops servers, which knows no key


class Guard:
    """An ASGI application around another. Refusals are in OpenAI's form."""

    def __init__(self, app: App, api_key: str | None, patience: float = _PATIENCE) -> None:
        self._app, self._key, self._patience = app, api_key, patience

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """As the ASGI specification has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._refuse_strangers(scope)
            body = await asyncio.wait_for(_body(receive), self._patience)
        except TimeoutError:
            refusal = Refusal(408, f"The request did not come within {self._patience:.0f} seconds.")
            await refusal.response(scope, receive, send)
            return
        except Refusal as refusal:
            await refusal.response(scope, receive, send)
            return
        if body is None:
            return
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def replayed() -> Message:
            return messages.pop() if messages else await receive()

        await self._app(scope, replayed, send)

    def _refuse_strangers(self, scope: MutableMapping[str, Any]) -> None:
        if self._key is None or scope["path"] in _OPEN:
            return
        given = dict(scope["headers"]).get(b"authorization", b"")
        kind, _, key = given.partition(b" ")
        if kind.lower() != b"bearer" or not hmac.compare_digest(key.strip(), self._key.encode()):
            raise Refusal(
                401,
                "Incorrect API key provided: send the server's key as `Authorization: Bearer KEY`.",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )


async def _body(receive: Receive) -> bytes | None:
    """A whole body; None where the client has gone. Raises Refusal for one that is too large."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > _MOST_BYTES:
            raise Refusal(413, f"The request is larger than {_MOST_BYTES} bytes.")
        if not message.get("more_body", False):
            return bytes(body)
