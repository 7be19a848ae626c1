"""The command line: one subcommand a stage, as dvc.yaml calls them, `check`, and later use."""

import os
import sys
from typing import Any

import click
from click_didyoumean import DYMGroup

from pipeline.cli.adapters import export, import_adapter
from pipeline.cli.ask import ask
from pipeline.cli.completion import completion
from pipeline.cli.demo import demo
from pipeline.cli.generate import generate
from pipeline.cli.init import init
from pipeline.cli.inspect import inspect
from pipeline.cli.library import library
from pipeline.cli.params import params
from pipeline.cli.processes import refuse_processes
from pipeline.cli.serve import serve
from pipeline.cli.stages import STAGES
from pipeline.cli.sweep import sweep
from pipeline.cli.ui import ui
from pipeline.config import load_params
from pipeline.errors.failures import sentence_of
from pipeline.preflight.files import check_files
from pipeline.progress.watching import quiet_libraries


class _Group(DYMGroup):
    """Turns a user's mistake into its sentence on standard error and exit code 1.

    An unknown command is told with those that are spelt alike.
    """

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands in sections: before a run, of a run in its order, and after it."""
        names = [command.name or "" for command in STAGES]
        after = [name for name in self.commands if name not in (*_FIRST, *names)]
        width = max(map(len, self.commands))
        for title, listed in (
            ("Begin", _FIRST),
            ("Use what was trained", after),
            ("Stages, as `dvc repro` runs them", names),
        ):
            # In one column, and the summary whole.
            rows = [(n.ljust(width), self.commands[n].get_short_help_str(200)) for n in listed]
            with formatter.section(title):
                formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        # Set before torch or tokenizers load: forked workers would only warn.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        quiet_libraries()
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            is_stage = any(ctx.invoked_subcommand == command.name for command in STAGES)
            again = "; `dvc repro` runs this stage again and keeps what is finished"
            _fail(f"stopped{again if is_stage else ''}", code=130)
        except Exception as error:
            if (sentence := sentence_of(error, ctx.invoked_subcommand)) is None:
                raise
            _fail(sentence, code=getattr(error, "exit_code", 1))


_FIRST = ("init", "check", "params", "library", "demo", "sweep", "completion")


def _fail(message: str, code: int = 1) -> None:
    click.echo(f"error: {message}", err=True)
    sys.exit(code)


@click.group(
    cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.pass_context
def main(ctx: click.Context) -> None:
    """Prefix tuning of a frozen language model, steered by params.yaml and run by DVC.

    \b
    python -m pipeline init my-project --data reviews.csv
    python -m pipeline check
    python -m pipeline demo
    python -m pipeline generate --help
    """
    refuse_processes(ctx.invoked_subcommand or "")


_USE = (ui, generate, ask, serve, inspect, export, import_adapter)

for _command in (*STAGES, init, params, library, demo, sweep, completion, *_USE):
    main.add_command(_command)


@main.command()
def check() -> None:
    """Check params.yaml, and the files it names.

    As far as they are here already: what a stage still has to bring is checked after it.

    \b
    python -m pipeline check
    """
    for sentence in check_files(load_params()):
        click.echo(sentence)
    click.echo("params.yaml is valid")
