"""The project's own engine: transformers, and requests of different prefixes in one batch."""
