"""Looking into a prefix: what training moved, what inputs attend to, and what it is worth."""
