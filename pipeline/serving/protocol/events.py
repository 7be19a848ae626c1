"""Server-sent events, of which a stream of OpenAI's API is made."""

import json
from collections.abc import Mapping
from typing import Any

DONE = "data: [DONE]\n\n"
"""What a whole stream ends with."""


def event_of(content: Mapping[str, Any]) -> str:
    """A JSON object as an event."""
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
