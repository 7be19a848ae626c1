"""Using what was trained: picking a variant, and text in, text out."""
