"""What a person types: a command a stage, `check`, and the later use of what was trained."""
