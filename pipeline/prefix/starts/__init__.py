"""Where a prefix can start: noise, words, texts, other prefixes."""
