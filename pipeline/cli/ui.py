"""`python -m pipeline ui`: MLflow's UI, open at the comparison."""

import signal

import click

from pipeline.config import load_params


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), help="Default: a free one, from 5000 on.")
@click.option(
    "--browser/--no-browser",
    default=None,
    help="Open the page in a browser; default: where there is a desktop.",
)
def ui(port: int | None, browser: bool | None) -> None:
    """Compare the runs in MLflow's UI.

    Prints the link to the comparison, and serves MLflow's UI until Ctrl-C. Where the environment
    variable MLFLOW_TRACKING_URI names a server, that one serves it.

    \b
    python -m pipeline ui
    python -m pipeline ui --port 8080
    """
    params = load_params()
    # A terminal that is closed ends the server as Ctrl-C does; under nohup it goes on.
    closed = getattr(signal, "SIGHUP", None)
    if closed is not None and signal.getsignal(closed) is signal.SIG_DFL:
        signal.signal(closed, signal.default_int_handler)
    from pipeline.tracking.ui import open_ui

    open_ui(params, port, browser)
