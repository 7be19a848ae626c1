"""`--help` of every command has an example that its options still take; the group lists all."""

import re
import shlex

import click
import pytest
from click.testing import CliRunner

from pipeline.cli.main import main
from pipeline.cli.stages import STAGES

COMMANDS = sorted(main.commands)
CALL = "python -m pipeline "


def help_of(*command: str) -> str:
    # As wide as a line of a docstring, so that no example is broken.
    result = CliRunner().invoke(main, [*command, "--help"], terminal_width=100)
    assert result.exit_code == 0
    return result.stdout


def examples_in(text: str) -> list[list[str]]:
    """The arguments of each example, what a shell does around it (pipes, `eval`) left out."""
    lines = [line.split(CALL, 1)[1] for line in text.splitlines() if CALL in line]
    calls = [re.split(r'\)"| \| ', line)[0] for line in lines if "Usage:" not in line]
    return [shlex.split(call) for call in calls]


def parsed(arguments: list[str]) -> click.Context:
    """The context of the command that they name, which is not run."""
    group = main.make_context("pipeline", list(arguments))
    name, command, rest = main.resolve_command(group, arguments)
    assert command is not None
    return command.make_context(name, rest, parent=group)


@pytest.mark.parametrize("name", COMMANDS)
def test_an_example_of_each_command_is_one_that_it_takes(name: str) -> None:
    examples = [e for e in examples_in(help_of(name)) if e[0] == name]
    assert examples, f"{name}: show an example in its docstring, below a line with \\b alone"
    for example in examples:
        assert parsed(example).info_name == name


def test_the_examples_of_the_group() -> None:
    examples = examples_in(help_of())
    assert [example[0] for example in examples] == ["init", "check", "demo", "generate"]
    assert all(example[0] in COMMANDS for example in examples)


@pytest.mark.parametrize(
    "outdated", ["train --lenght 8", "train --length eight", "trian", "export", "completion tcsh"]
)
def test_an_outdated_example_would_fail(outdated: str) -> None:
    with pytest.raises(click.UsageError):
        parsed(shlex.split(outdated))


def test_the_group_lists_each_command_once_with_its_summary() -> None:
    shown = help_of()
    begin, use, stages = (
        shown.index(title) for title in ("Begin:", "Use what was trained:", "Stages, as")
    )
    for name, command in main.commands.items():
        (at,) = (found.start() for found in re.finditer(rf"^  {name} ", shown, re.MULTILINE))
        first = " ".join(shown[at:].split())
        assert first.startswith(f"{name} {command.get_short_help_str(200)}"), name
        assert not command.get_short_help_str(200).endswith("..."), name
        assert (at > stages) == (command in STAGES), name
    assert begin < shown.index("\n  init ") < use < shown.index("\n  generate ") < stages
    listed = [shown.index(f"\n  {command.name} ") for command in STAGES]
    assert listed == sorted(listed)


@pytest.mark.parametrize(
    ("typed", "meant"), [("chek", "check"), ("fetch-model", "fetch_model"), ("exprot", "export")]
)
def test_an_unknown_command_is_told_with_those_alike(typed: str, meant: str) -> None:
    result = CliRunner().invoke(main, [typed])
    assert result.exit_code == 2
    assert f"No such command '{typed}'" in result.stderr
    assert re.search(rf"Did you mean .*\n    {meant}\n", result.stderr)
