"""Stages run as `dvc repro` would run them, several at once, by workers that stay alive."""
