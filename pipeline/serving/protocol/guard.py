"""What stands before the application: the key, and bodies that are too large or never end."""

import asyncio
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from pipeline.serving.refusals import Refusal, too_late, too_much_held

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

_MOST_BYTES = 4 * 2**20  # of a request's body
_MOST_HELD = 64 * 2**20  # of the bodies of all requests that are not answered yet
_PATIENCE = 30.0  # seconds for a body to come
_OPEN = ("/health",)  # asked by what starts and stops servers, which knows no key


class Guard:
    """An ASGI application around another. Refusals are in OpenAI's form."""

    def __init__(self, app: App, api_key: str | None, patience: float = _PATIENCE) -> None:
        self._app, self._key, self._patience = app, api_key, patience
        self._held = 0  # bytes of bodies

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """As the ASGI specification has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = bytearray()
        try:
            if await self._has_come(body, scope, receive, send):
                messages = [{"type": "http.request", "body": bytes(body), "more_body": False}]

                async def replayed() -> Message:
                    return messages.pop() if messages else await receive()

                await self._app(scope, replayed, send)
        finally:
            self._held -= len(body)

    async def _has_come(
        self, body: bytearray, scope: MutableMapping[str, Any], receive: Receive, send: Send
    ) -> bool:
        """Whether the whole body came and is let pass; else who sent it was told why."""
        try:
            self._refuse_strangers(scope)
            return await asyncio.wait_for(self._read(body, receive), self._patience)
        except TimeoutError:
            await too_late(self._patience).response(scope, receive, send)
        except Refusal as refusal:
            await refusal.response(scope, receive, send)
        return False

    async def _read(self, body: bytearray, receive: Receive) -> bool:
        """Read a body; false where the client has gone. Raises Refusal for one too large."""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return False
            new = message.get("body", b"")
            if len(body) + len(new) > _MOST_BYTES:
                raise Refusal(413, f"The request is larger than {_MOST_BYTES} bytes.")
            if self._held + len(new) > _MOST_HELD:
                raise too_much_held()
            body += new
            self._held += len(new)
            if not message.get("more_body", False):
                return True

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
