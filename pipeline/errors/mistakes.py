"""The error every user mistake becomes."""


class PipelineError(Exception):
    """A mistake that the user can mend: its text is one sentence that names the fix.

    The command line prints the text without a traceback and exits with `exit_code`.
    """

    exit_code = 1


class StoppedError(PipelineError):
    """A signal asked for an end: the text says how to go on."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class DivergedError(PipelineError):
    """A training whose numbers are of no use any more."""


def first_line(error: BaseException) -> str:
    """What another library's error says, for a sentence of ours; its class if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
