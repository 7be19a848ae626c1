"""The error every user mistake becomes."""


class PipelineError(Exception):
    """A mistake that the user can mend: its text is one sentence that names the fix.

    The command line prints the text without a traceback and exits with code 1.
    """
