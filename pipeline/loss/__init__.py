"""The loss of a target, one file a kind of target."""
