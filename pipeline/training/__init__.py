"""Training a prefix against the frozen model."""
