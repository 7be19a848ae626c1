"""How time, memory and disk grow with the data, a corpus, a prefix and a sweep."""
