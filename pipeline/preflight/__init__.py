"""Params against files and model, before any work."""
