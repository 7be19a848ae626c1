"""A user's mistake and a machine's failure, told as one sentence with the fix."""

from pipeline.errors.mistakes import DivergedError, PipelineError, StoppedError, first_line

__all__ = ["DivergedError", "PipelineError", "StoppedError", "first_line"]
