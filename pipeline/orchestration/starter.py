"""What becomes of a process when the one that started it is gone."""

import os
import signal
import threading
import time
from multiprocessing import parent_process


def end_with_starter(seconds: float = 0.0) -> None:
    """However the process ended that started this one, this one computes on for nobody.

    It is asked to end (SIGTERM), and ends after so many seconds. In the main process, which none
    started, nothing happens.
    """
    starter = parent_process()
    if starter is None:
        return

    def end() -> None:
        starter.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(seconds)
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()
