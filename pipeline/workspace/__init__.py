"""Where stages write, which workspace this is, and how long things took here."""
