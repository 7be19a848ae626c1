"""Trained prefixes served by inference engines."""
