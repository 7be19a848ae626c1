"""Requests of different prefixes in one batch: the project's own engine, without its protocol."""
