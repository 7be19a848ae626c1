"""What pydantic and Starlette say of a request, as OpenAI's API would."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pipeline.serving.refusals import Refusal

# The branches of a union by which pydantic names the place of an error.
_BRANCHES = ("function-", "constrained-", "list[", "str", "int", "literal[", "tagged-")


def tell_errors(app: Starlette) -> None:
    """Have an application give every error in OpenAI's form."""
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _failed)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return error.response


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return refusal_of(error.errors()).response


async def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return Refusal(error.status_code, str(error.detail), headers=dict(error.headers or {})).response


async def _failed(_: Request, error: Exception) -> Response:
    return Refusal(500, "The server failed; its log says why.").response


def refusal_of(errors: Sequence[Mapping[str, Any]]) -> Refusal:
    """The first of pydantic's errors; of a value of several types that of the type it is of."""
    first = errors[0]
    names = _names(first)
    if first["type"] == "json_invalid":
        return Refusal(400, "The request is no JSON; check quotes, commas and brackets.")
    if not names:
        return Refusal(400, "The request has no body; send a JSON object with its content type.")
    alike = [error for error in errors if _names(error)[:1] == names[:1]]
    first = max(alike, key=lambda e: (len(_names(e)), not e["type"].endswith("_type")))
    param = ".".join(_names(first))
    if first["type"] == "extra_forbidden":
        return Refusal(400, f"{param}: is not served, or unknown; leave it out.", param)
    if first["type"] == "missing":
        return Refusal(400, f"{param}: is missing.", param)
    said = str(first["msg"]).removeprefix("Value error, ")
    return Refusal(400, f"{param}: {said[:1].lower()}{said[1:]}.", param)


def _names(error: Mapping[str, Any]) -> list[str]:
    """The keys and places that lead to an error."""
    where = [str(part) for part in error["loc"] if part != "body"]
    return [*where[:1], *(part for part in where[1:] if not part.startswith(_BRANCHES))]
