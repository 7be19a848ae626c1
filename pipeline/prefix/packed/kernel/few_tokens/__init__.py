"""Layers of a few decoded tokens, which the kernel computes faster than torch."""
