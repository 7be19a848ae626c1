"""`python -m pipeline`, and the command `prefix-tuning` that an installation adds."""

import os
import signal
import sys
from pathlib import Path

from pipeline.cli.completion import VARIABLE
from pipeline.cli.main import main


def run() -> None:
    """Read the command line and do as it says."""
    # A stage that is asked to end tidies up as after Ctrl-C; training takes both signals itself.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main(complete_var=VARIABLE)


def script() -> None:
    """The same by the code of the working folder where a project has its own, as its stages are."""
    own = Path("pipeline", "__main__.py")
    if own.is_file() and not own.samefile(__file__):
        os.execv(sys.executable, [sys.executable, "-m", "pipeline", *sys.argv[1:]])
    run()


if __name__ == "__main__":
    run()
