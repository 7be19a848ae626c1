"""Measuring a prefix or a baseline on a split: loss of the target, and greedy generation."""
