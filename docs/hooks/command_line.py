"""The command line's own `--help`, of every command, as docs/reference/command_line.md."""

import re

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

from pipeline.cli.main import main
from pipeline.cli.stages import STAGES

PAGE = "docs/reference/command_line.md"
_PLACE = re.compile(r"<!-- commands -->.*<!-- /commands -->", re.DOTALL)
_PROGRAM = "python -m pipeline"
# As many as the page has room for.
_COLUMNS = 84


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the commands where the page leaves room for them."""
    if page.file.src_uri != PAGE:
        return markdown
    stages = {stage.name for stage in STAGES}
    used = [name for name in main.commands if name not in stages]
    text = "\n\n".join(
        [
            "## Commands",
            *(_described(name) for name in used),
            "## Stages",
            "`dvc repro` calls these; a person rarely does.",
            *(_described(name) for name in main.commands if name in stages),
        ]
    )
    return _PLACE.sub(lambda _: text, markdown)


def _described(name: str) -> str:
    command = main.commands[name]
    within = click.Context(main, info_name=_PROGRAM, terminal_width=_COLUMNS)
    context = click.Context(command, info_name=name, parent=within, terminal_width=_COLUMNS)
    return f"### {name}\n\n```text\n{command.get_help(context)}\n```"
