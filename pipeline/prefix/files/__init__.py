"""A prefix on disk in PEFT's format, and what it was made with."""
