"""How processes end that compute for another one."""

import os
import threading
from multiprocessing import parent_process


def end_with_starter() -> None:
    """However the process ended that started this one, this one computes on for nobody.

    Of the main process itself there is none.
    """
    starter = parent_process()
    if starter is None:
        return

    def end() -> None:
        starter.join()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()
