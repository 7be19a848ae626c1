"""Generated text on the terminal while it is generated."""

from collections.abc import Collection
from typing import Any

from transformers import TextStreamer


class TerminalStreamer(TextStreamer):
    """transformers' streamer, without white space around the text.

    What it has printed when generation ends is the text that `TextGenerator` returns, and a new
    line. `ends` are the tokens that end it, which not every tokenizer calls special.
    """

    def __init__(self, tokenizer: Any, ends: Collection[int] = ()) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._ends = ends
        self._begun = False
        self._held = ""

    def put(self, value: Any) -> None:
        """Take the prompt, and then a token at a time."""
        if self.next_tokens_are_prompt or int(value.flatten()[-1]) not in self._ends:
            super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Print what is sure not to be trailing white space."""
        text = self._held + text
        if not self._begun:
            text = text.lstrip()
        shown = text.rstrip()
        self._held = text[len(shown) :]
        self._begun = self._begun or bool(shown)
        print(shown, flush=True, end="\n" if stream_end else "")
