"""The served models, as `GET /v1/models` and `GET /v1/models/NAME` tell them."""

import time
from collections.abc import Collection
from typing import Any

from starlette.responses import JSONResponse, Response

from pipeline.serving.refusals import unknown_model


class Listing:
    """Names of models, since the moment that it was made."""

    def __init__(self, names: Collection[str]) -> None:
        self._names, self._created = names, int(time.time())

    def all(self) -> Response:
        """Every model: a prefix each, and the frozen model alone."""
        return JSONResponse({"object": "list", "data": [self._told(name) for name in self._names]})

    def one(self, name: str) -> Response:
        """One of them. Raises Refusal where there is none of the name."""
        if name not in self._names:
            raise unknown_model(name)
        return JSONResponse(self._told(name))

    def _told(self, name: str) -> dict[str, Any]:
        about = {"object": "model", "created": self._created, "owned_by": "prefix-tuning"}
        return {"id": name, **about}
