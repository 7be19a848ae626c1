"""Corpora, and where a prefix starts."""
