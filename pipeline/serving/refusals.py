"""Errors in the form of OpenAI's API."""

from dataclasses import dataclass, field

from fastapi.responses import JSONResponse


@dataclass
class Refusal(Exception):  # noqa: N818 - what a client is told
    """What a client is told in place of an answer.

    `param` is the key of the request that it is about; `code` tells programs what is wrong.
    """

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def body(self) -> dict[str, object]:
        """As JSON."""
        return {
            "error": {
                # What a request said may hold half a character, which UTF-8 does not.
                "message": self.message.encode(errors="replace").decode(),
                "type": "server_error" if self.status >= 500 else "invalid_request_error",
                "param": self.param,
                "code": self.code,
            }
        }

    @property
    def response(self) -> JSONResponse:
        """As an answer."""
        return JSONResponse(self.body, self.status, headers=self.headers)


def unknown_model(name: str) -> Refusal:
    """A name that none of the served models has."""
    sentence = f"The model '{name}' does not exist; GET /v1/models lists those that are served."
    return Refusal(404, sentence, "model", "model_not_found")


def queue_full() -> Refusal:
    """More requests wait than may."""
    sentence = "Too many requests wait already; try again later."
    return Refusal(429, sentence, None, "rate_limit_exceeded", {"Retry-After": "1"})


def too_many_connections() -> Refusal:
    """Requests on as many connections as may be are answered already."""
    sentence = "Too many connections have a request already; try again later."
    headers = {"Retry-After": "1", "Connection": "close"}
    return Refusal(503, sentence, None, "too_many_connections", headers)


def too_much_held() -> Refusal:
    """The bodies of requests that are answered have no room beside them for another."""
    sentence = "The requests at hand are too large together; try again later."
    return Refusal(429, sentence, None, "rate_limit_exceeded", {"Retry-After": "1"})


def too_late(patience: float) -> Refusal:
    """A request did not come as fast as it has to."""
    return Refusal(408, f"The request did not come within {patience:g} seconds.")


def ending() -> Refusal:
    """The server takes nothing more."""
    return Refusal(503, "The server is ending.", None, "server_ending", {"Retry-After": "10"})
