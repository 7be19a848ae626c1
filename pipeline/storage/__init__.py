"""Writing files whole or not at all, and reading them back."""
