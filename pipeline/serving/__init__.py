"""Trained prefixes behind a server: one of this project's own, or an engine's."""
