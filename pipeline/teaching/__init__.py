"""What the frozen model predicts with a text in its context, kept for prefixes to learn."""
