"""A library: a prefix for each of many documents, and how they do beside each other."""
