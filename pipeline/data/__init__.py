"""From a row to text, tokens, splits on disk and batches; the task types."""
