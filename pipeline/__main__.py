"""`python -m pipeline`."""

import signal

from pipeline.cli.main import main

# A stage that is asked to end tidies up as after Ctrl-C; training takes both signals itself.
signal.signal(signal.SIGTERM, signal.default_int_handler)
main()
