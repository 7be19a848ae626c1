"""What a frozen model is: its parts, its attention calls, the shapes of its keys and values."""
