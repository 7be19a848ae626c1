"""How far work is, for whoever watches: bars on a terminal, few lines in a log, none in CI."""
