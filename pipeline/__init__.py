"""Prefix tuning of frozen language models: a DVC pipeline around `pipeline.prefix`."""
