"""Questions and answers by a server that speaks OpenAI's protocol (POST /chat/completions)."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from pipeline.config.self_study import ServerGenerator
from pipeline.errors import PipelineError, first_line
from pipeline.self_study.writing import Request, Sampling, Written

_BUSY = (408, 409, 425, 429, 500, 502, 503, 504)
_FIRST_WAIT = 0.5  # seconds, doubled with each retry
_LARGEST_SEED = 2**31 - 1  # some servers hold it in 32 bits


class ServerWriter:
    """Each request is a chat of one turn, the chunk first, so that a server can keep its cache.

    A busy or failing server is asked again, `retries` times with growing pauses. Raises
    PipelineError when the environment lacks the key that `api_key_env` names.
    """

    def __init__(self, generator: ServerGenerator, key: str) -> None:
        self._generator = generator
        self._key = key
        self._address = f"{generator.url.rstrip('/')}/chat/completions"
        retry = Retry(
            total=generator.retries,
            backoff_factor=_FIRST_WAIT,
            status_forcelist=_BUSY,
            allowed_methods=None,
            raise_on_status=False,
        )
        self._session = requests.Session()
        adapter = HTTPAdapter(max_retries=retry, pool_maxsize=generator.parallel_requests)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, adapter)
        if generator.api_key_env is not None:
            secret = os.environ.get(generator.api_key_env, "").strip()
            if not secret:
                raise PipelineError(
                    f"{key}.api_key_env: the environment variable '{generator.api_key_env}' is not "
                    "set; export it, or set the key to null"
                )
            self._session.headers["Authorization"] = f"Bearer {secret}"

    def write(self, context: str, requests: Sequence[Request], sampling: Sampling) -> list[Written]:
        """As `Writer` has it, `parallel_requests` at a time."""
        ask = partial(self._write_one, context, sampling)
        with ThreadPoolExecutor(self._generator.parallel_requests) as pool:
            return list(pool.map(ask, requests))

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def _write_one(self, context: str, sampling: Sampling, request: Request) -> Written:
        asked = {
            "model": self._generator.model,
            "messages": [{"role": "user", "content": f"{context}\n\n{request.ask}"}],
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": request.seed % _LARGEST_SEED,
        }
        answer = self._answer(asked)
        try:
            choice = answer["choices"][0]
            text = choice["message"]["content"]
        except (LookupError, TypeError) as error:
            raise self._wrong("answered with no choices[0].message.content") from error
        if text is not None and not isinstance(text, str):
            raise self._wrong("answered with a message that is no text")
        return Written((text or "").strip(), choice.get("finish_reason") != "length")

    def _answer(self, asked: dict[str, Any]) -> Any:
        try:
            response = self._session.post(
                self._address, json=asked, timeout=self._generator.timeout_seconds
            )
        except requests.Timeout as error:
            raise self._wrong(
                f"gave no answer within {self._generator.timeout_seconds:g} seconds; raise "
                f"{self._key}.timeout_seconds"
            ) from error
        except requests.RequestException as error:
            raise PipelineError(
                f"{self._key}.url: the server at {self._generator.url} is out of reach "
                f"({type(error).__name__}); start it, or name another"
            ) from error
        if not response.ok:
            raise self._wrong(f"answered {response.status_code}: {_told(response)}")
        try:
            return response.json()
        except ValueError as error:
            raise self._wrong("answered with no JSON") from error

    def _wrong(self, what: str) -> PipelineError:
        return PipelineError(f"{self._key}.url: the server at {self._generator.url} {what}")


def _told(response: requests.Response) -> str:
    """The server's own reason, in a line."""
    try:
        told = response.json()
        told = told.get("error", told) if isinstance(told, dict) else told
        told = told.get("message", told) if isinstance(told, dict) else told
    except ValueError:
        told = response.text
    return first_line(ValueError(str(told)))[:300] or str(response.reason)
