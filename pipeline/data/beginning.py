"""Where the token that begins a text (BOS) stands: once, first of all that the model reads.

A tokenized input holds it, as the frozen model reads that input alone. After a prefix that begins
a text itself (the KV cache of one) an input goes on without it.
"""

from datasets import Dataset

from pipeline.data.rows import TokenizedRows


def following(split: Dataset, begins_text: bool) -> Dataset | TokenizedRows:
    """A tokenized split as it follows a prefix that begins a text, or does not.

    The split itself where there is nothing to leave out; else its rows, each changed as it is read.
    """
    if not begins_text or "beginning" not in split.column_names:
        return split
    return TokenizedRows(split, without_beginning=True)
