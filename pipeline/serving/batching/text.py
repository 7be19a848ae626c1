"""The text of tokens as they come, up to a stop string."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

_CUT = "�"  # what a character is decoded as whose bytes are not all there
_BEFORE = 8  # tokens decoded again with each new one, since how one is read depends on those before


class GrowingText:
    """Decodes one token after the other, and holds back what could begin a stop string.

    Attributes:
        text: what is sure so far.
        is_stopped: whether a stop string came; the text ends before it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str]) -> None:
        self.text = ""
        self.is_stopped = False
        self._tokenizer, self._stop = tokenizer, [each for each in stop if each]
        self._tokens: list[int] = []
        self._read = 0
        self._held = ""

    def add(self, token: int) -> str:
        """Take a token; returns the text that has become sure."""
        self._tokens.append(token)
        begin = max(0, self._read - _BEFORE)
        known = self._decode(self._tokens[begin : self._read])
        text = self._decode(self._tokens[begin:])
        if text.endswith(_CUT) and len(self._tokens) - self._read < _BEFORE:
            return ""
        self._read = len(self._tokens)
        return self._given(text[len(known) :], is_last=False)

    def finish(self) -> str:
        """The rest, after the last token."""
        begin = max(0, self._read - _BEFORE)
        known = self._decode(self._tokens[begin : self._read])
        rest = self._decode(self._tokens[begin:])[len(known) :]
        self._read = len(self._tokens)
        return "" if self.is_stopped else self._given(rest, is_last=True)

    def _given(self, new: str, is_last: bool) -> str:
        text = self._held + new
        ends = [at for at in map(text.find, self._stop) if at >= 0]
        if ends:
            self.is_stopped, self._held = True, ""
            text = text[: min(ends)]
        else:
            held = 0 if is_last else max((_overlap(text, each) for each in self._stop), default=0)
            text, self._held = text[: len(text) - held], text[len(text) - held :]
        self.text += text
        return text

    def _decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))


def _overlap(text: str, stop: str) -> int:
    """How many of a text's last characters begin a stop string."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
