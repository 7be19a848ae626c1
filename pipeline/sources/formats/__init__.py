"""What is in a data file: exactly its rows, or a ValueError that says what is wrong with it."""
