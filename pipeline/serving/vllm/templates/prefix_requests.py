"""Refuses requests that vLLM would answer without their prefix, or with half of it: a middleware.

For `--middleware prefix_requests.PrefixRequests`. This file stands alone, beside `prefixes.json`.
What is refused never reaches the model: it is answered with status 400 and a sentence.
"""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


class PrefixRequests:
    """An ASGI application around another, which sees the bodies of completions first."""

    def __init__(self, app: Any, folder: Path = FOLDER) -> None:
        self._app = app
        served = json.loads((folder / "prefixes.json").read_text(encoding="utf-8"))
        prefixes = served["prefixes"].values()
        self._ids = [about["ids"] for about in prefixes]
        self._texts = [about["text"] for about in prefixes if about["text"] is not None]
        self._adds_bos = served["tokenizer_adds_bos"]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer the request, or pass it on."""
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
        if reason := self.why_not(scope["path"], body):
            await _refuse(send, reason)
            return
        given = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Any:
            return given.pop() if given else await receive()

        await self._app(scope, again, send)

    def why_not(self, path: str, body: bytes) -> str | None:
        """Why a request is refused; None for one that vLLM answers, or refuses itself."""
        try:
            asked = json.loads(body)
        except ValueError:
            return None
        if not isinstance(asked, dict):
            return None
        if path == CHAT:
            chosen = (asked.get("chat_template_kwargs") or {}).get("prefix")
            return _CUT if chosen and asked.get("truncate_prompt_tokens") else None
        prompt = asked.get("prompt")
        prompts = [prompt]
        if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
            prompts = prompt
        reasons = (self._why_no_prompt(each, asked) for each in prompts)
        return next((reason for reason in reasons if reason), None)

    def _why_no_prompt(self, prompt: Any, asked: dict[str, Any]) -> str | None:
        if isinstance(prompt, str):
            begins = any(prompt.startswith(text) for text in self._texts)
            empty = prompt in self._texts
        elif isinstance(prompt, list):
            begins = any(prompt[: len(ids)] == ids for ids in self._ids)
            empty = prompt in self._ids
        else:
            return None
        if not begins:
            return None
        if empty:
            return "the prompt is a prefix and nothing else; add the input after the placeholders"
        if asked.get("truncate_prompt_tokens"):
            return _CUT
        if isinstance(prompt, str) and self._adds_bos and asked.get("add_special_tokens", True):
            return (
                "the tokenizer would put its BOS before the placeholders, which have to come "
                "first; set add_special_tokens to false, or give token ids"
            )
        return None


_CUT = (
    "truncate_prompt_tokens would cut the prefix's placeholders off; leave it out, and shorten the "
    "input instead"
)


async def _refuse(send: Any, reason: str) -> None:
    error = {"message": reason, "type": "BadRequestError", "param": None, "code": 400}
    body = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 400, "headers": headers})
    await send({"type": "http.response.body", "body": body})
