"""Hooks that give a frozen model its prefix, batch by padded batch."""
