"""`python -m benchmarks.growth`: tables of how things grow."""

import click

from benchmarks.growth.corpus import corpus
from benchmarks.growth.examples import examples
from benchmarks.growth.lengths import lengths
from benchmarks.growth.variants import variants


@click.group()
def main() -> None:
    """Measure how time, memory and disk grow; each prints a table and writes it as JSON."""


for command in (variants, examples, corpus, lengths):
    main.add_command(command)

if __name__ == "__main__":
    main()
