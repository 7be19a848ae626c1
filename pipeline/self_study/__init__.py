"""Self-study: questions and answers about a corpus, written by a model that reads it in chunks."""
