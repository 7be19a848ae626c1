"""A corpus: documents read from files, and cut into chunks of tokens."""
