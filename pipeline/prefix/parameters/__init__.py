"""The trainable modules that yield a prefix, and how they are configured."""
