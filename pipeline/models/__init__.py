"""The frozen model, loaded for a task, with and without a prefix."""
