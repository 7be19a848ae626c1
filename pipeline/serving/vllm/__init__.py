"""Trained prefixes in vLLM as it is released: a folder with a KV connector, and a command."""
