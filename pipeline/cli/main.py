"""The command line: one subcommand a stage, as dvc.yaml calls them, `check`, and later use."""

import os
import sys
from typing import Any

import click

from pipeline.cli.adapters import export, import_adapter
from pipeline.cli.demo import demo
from pipeline.cli.generate import generate
from pipeline.cli.params import params
from pipeline.cli.stages import STAGES
from pipeline.config import load_params
from pipeline.errors import PipelineError
from pipeline.errors.failures import explained
from pipeline.preflight.files import check_files
from pipeline.progress.watching import quiet_libraries


class _Group(click.Group):
    """Turns a user's mistake into its sentence on standard error and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        # Set before torch or tokenizers load: forked workers would only warn.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        quiet_libraries()
        try:
            return super().invoke(ctx)
        except PipelineError as error:
            _fail(str(error), code=error.exit_code)
        except ValueError as error:
            # PrefixError lives in the library, whose import costs seconds: tell it by its class.
            if type(error).__module__.startswith("pipeline.prefix"):
                _fail(str(error))
            raise
        except KeyboardInterrupt:
            _fail("stopped; `dvc repro` runs this stage again and keeps what is finished", code=130)
        except Exception as error:
            if (sentence := explained(error, ctx.invoked_subcommand)) is None:
                raise
            _fail(sentence)


def _fail(message: str, code: int = 1) -> None:
    click.echo(f"error: {message}", err=True)
    sys.exit(code)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Prefix tuning of a frozen language model, steered by params.yaml and run by DVC.

    `dvc repro` calls the stages below in their order; `python -m pipeline check` validates
    params.yaml without running any, `demo` shows one variant before the others. With what they
    trained, `generate` answers texts, `export`
    writes a PEFT adapter, and `import` lets one join the comparison. `params` puts an example over
    params.yaml.
    """


for _command in (*STAGES, demo, generate, export, import_adapter, params):
    main.add_command(_command)


@main.command()
def check() -> None:
    """Validate params.yaml, and what it names as far as it is here already."""
    for sentence in check_files(load_params()):
        click.echo(sentence)
    click.echo("params.yaml is valid")
