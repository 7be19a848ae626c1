"""A new project with a person's own data: columns, task and sizes are guessed, and told."""
