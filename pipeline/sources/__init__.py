"""Fetching the frozen model and the data, each into one format whatever its source."""
