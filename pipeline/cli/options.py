"""Options that several commands share."""

import click

from pipeline.cli.names import complete_variants
from pipeline.sweep.variants import BEST

variant_option = click.option(
    "--variant",
    default=BEST,
    show_default=True,
    metavar="NAME",
    shell_complete=complete_variants,
    help="A variant such as len32-demonstrations-seed0, an imported adapter, or the best by "
    "report.sort_by on validation.",
)
