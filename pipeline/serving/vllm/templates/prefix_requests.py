"""Lets a request name its prefix as its model, and refuses what would lose it: a middleware.

For `--middleware prefix_requests.PrefixRequests`. This file stands alone, beside `prefixes.json`.
What is refused never reaches vLLM: it is answered with status 400 and a sentence.
"""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


class RefusedError(Exception):
    """Why a request is refused, as the client is told."""


class PrefixRequests:
    """An ASGI application around another, which sees the bodies of completions first."""

    def __init__(self, app: Any, folder: Path = FOLDER) -> None:
        self._app = app
        served = json.loads((folder / "prefixes.json").read_text(encoding="utf-8"))
        self._prefixes: dict[str, Any] = served["prefixes"]
        self._bos: str = served["bos"]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Refuse the request, or pass it on with its prefix in its place."""
        if scope["type"] != "http" or scope["path"] not in (CHAT, COMPLETIONS):
            await self._app(scope, receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        try:
            body = self.with_prefix(scope["path"], body)
        except RefusedError as error:
            await _refuse(send, str(error))
            return
        headers = [pair for pair in scope.get("headers", ()) if pair[0] != b"content-length"]
        headers.append((b"content-length", b"%d" % len(body)))
        given = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Any:
            return given.pop() if given else await receive()

        await self._app({**scope, "headers": headers}, again, send)

    def with_prefix(self, path: str, body: bytes) -> bytes:
        """The body with what the prefix asks for that its `model` names, if any.

        Raises RefusedError for a request that vLLM would answer without its prefix, or with half of
        it. What is no request at all is vLLM's to refuse.
        """
        try:
            asked = json.loads(body)
        except ValueError:
            return body
        if not isinstance(asked, dict):
            return body
        name = asked.get("model")
        about = self._prefixes.get(name) if isinstance(name, str) else None
        changed = self._chat(asked, name, about) if path == CHAT else self._prompt(asked, about)
        return json.dumps(changed).encode() if about else body

    def _chat(self, asked: dict[str, Any], name: Any, about: Any) -> dict[str, Any]:
        variables = asked.get("chat_template_kwargs") or {}
        if about is not None:
            variables = {"prefix": name, **variables}
        if chosen := variables.get("prefix"):
            _refuse_cut(asked)
            if (self._prefixes.get(chosen) or {"text": ""})["text"] is None:
                raise RefusedError(
                    "the tokenizer has no special tokens to spare, so that no chat template can "
                    f"write a prefix; send token ids to {COMPLETIONS}"
                )
        return {**asked, "chat_template_kwargs": variables}

    def _prompt(self, asked: dict[str, Any], about: Any) -> dict[str, Any]:
        prompt: Any = asked.get("prompt")
        several = isinstance(prompt, list) and prompt and not isinstance(prompt[0], int)
        prompts: list[Any] = prompt if several else [prompt]
        for each in prompts:
            self._refuse_prompt(each, asked, names_one=about is not None)
        if about is None:
            return asked
        _refuse_cut(asked)
        if not all(prompts):
            raise RefusedError("the prompt is empty; a prefix answers an input")
        behind = [self._behind(about, each) for each in prompts]
        # What begins the text stands in it already.
        return {**asked, "prompt": behind if several else behind[0], "add_special_tokens": False}

    def _behind(self, about: dict[str, Any], prompt: Any) -> Any:
        """A prompt behind the placeholders of a prefix."""
        if isinstance(prompt, list):
            return prompt if _begins(prompt, about["ids"]) else [*about["ids"], *prompt]
        if about["text"] is None:
            raise RefusedError(
                "the tokenizer has no special tokens to spare, so that no text can write a prefix; "
                "give token ids as the prompt"
            )
        bos = "" if about["begins_text"] else self._bos
        return prompt if _begins(prompt, about["text"]) else about["text"] + bos + prompt

    def _refuse_prompt(self, prompt: Any, asked: dict[str, Any], names_one: bool) -> None:
        key = "text" if isinstance(prompt, str) else "ids"
        if not isinstance(prompt, str | list):
            return
        found = [about[key] for about in self._prefixes.values() if about[key] is not None]
        if not any(_begins(prompt, start) for start in found):
            return
        if prompt in found:
            raise RefusedError(
                "the prompt is a prefix and nothing else; add the input after the placeholders"
            )
        _refuse_cut(asked)
        adds = bool(self._bos) and asked.get("add_special_tokens", True) and not names_one
        if isinstance(prompt, str) and adds:
            raise RefusedError(
                "the tokenizer would put its BOS before the placeholders, which have to come "
                "first; set add_special_tokens to false, or name the prefix as the model"
            )


def _begins(prompt: Any, start: Any) -> bool:
    return bool(prompt[: len(start)] == start)


def _refuse_cut(asked: dict[str, Any]) -> None:
    if asked.get("truncate_prompt_tokens"):
        raise RefusedError(
            "truncate_prompt_tokens would cut the prefix's placeholders off; leave it out, and "
            "shorten the input instead"
        )


async def _refuse(send: Any, reason: str) -> None:
    error = {"message": reason, "type": "BadRequestError", "param": None, "code": 400}
    body = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 400, "headers": headers})
    await send({"type": "http.response.body", "body": body})
