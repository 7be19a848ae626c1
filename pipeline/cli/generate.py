"""`python -m pipeline generate`: answers with a trained prefix."""

import sys
from pathlib import Path

import click
from click.core import ParameterSource

from pipeline.cli.names import complete_prefixes
from pipeline.cli.options import variant_option
from pipeline.config import load_params
from pipeline.errors import PipelineError


@click.command()
@click.argument("text", metavar="[INPUT]", required=False)
@variant_option
@click.option(
    "--prefix",
    "prefixes",
    multiple=True,
    metavar="NAME",
    shell_complete=complete_prefixes,
    help="In place of --variant; given more than once, all of them together, in this order. A "
    "variant, a file prefix.safetensors, or a PEFT adapter's folder.",
)
@click.option(
    "--file",
    "file",
    type=click.Path(path_type=Path),
    help="An input on each line: JSON in .jsonl and .json (an object is a row of data, a string a "
    "text), texts in any other file. Prints a JSON line for each.",
)
@click.option("--row", is_flag=True, help="INPUT is a JSON object: a row of data.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Write the JSON lines of --file here in place of the terminal. What was stopped goes on "
    "where it was when the same is asked again.",
)
@click.option(
    "--together",
    type=click.IntRange(min=1),
    metavar="N",
    help="The most inputs of --file that are computed at once, within memory.max_tokens_per_batch; "
    "with 1 each is computed as alone, where company changes the rounding.",
)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    help="The longest answer, in tokens.  [default: evaluate.max_new_tokens]",
)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="0 takes the most likely token at every step, as the evaluation does; above 0 samples.",
)
@click.option(
    "--top-p",
    type=click.FloatRange(min=0, max=1, min_open=True),
    default=1.0,
    show_default=True,
    help="Sample from the most likely tokens that hold this much probability.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**64 - 1),
    default=0,
    show_default=True,
    help="Of the sampling.",
)
@click.option("--stream/--no-stream", default=True, help="Print words as they are generated.")
def generate(
    text: str | None,
    variant: str,
    prefixes: tuple[str, ...],
    file: Path | None,
    row: bool,
    output: Path | None,
    together: int | None,
    max_new_tokens: int | None,
    temperature: float,
    top_p: float,
    seed: int,
    stream: bool,
) -> None:
    """Answer INPUT, each line of --file, or standard input, with a trained prefix.

    INPUT is a text as task.input_template would render it; the chat template and system prompt of
    `task` are put around it. With --row it is a row of data, which the template renders.

    \b
    python -m pipeline generate "area: 91 sq km ..." --variant len8-random-seed0
    python -m pipeline generate --row '{"record": "...", "question": "..."}'
    python -m pipeline generate --file data/raw/test.jsonl --output answers.jsonl
    python -m pipeline generate "..." --prefix handbook.safetensors --prefix glossary.safetensors
    cat question.txt | python -m pipeline generate
    """
    from pipeline.inference.inputs import Input, inputs_of_file, parse_row

    if text is not None and file is not None:
        raise click.UsageError("give either INPUT or --file")
    context = click.get_current_context()
    is_given = context.get_parameter_source("variant") is not ParameterSource.DEFAULT
    if prefixes and is_given:
        raise click.UsageError("give either --variant or --prefix")
    for option, value in (("--output", output), ("--together", together)):
        if value is not None and file is None:
            raise click.UsageError(f"{option} needs --file")
    given: list[Input]
    if file is not None:
        given = inputs_of_file(file)
    else:
        if text is None:
            if sys.stdin.isatty():
                raise click.UsageError("give INPUT, --file, or a text on standard input")
            text = sys.stdin.read().rstrip("\n")
        if not text.strip():
            raise PipelineError("the input is empty")
        given = [parse_row(text, "INPUT") if row else text]

    params = load_params()
    from pipeline.inference.answering import answer_lines, answer_one
    from pipeline.inference.generator import Decoding, generator_of, generator_of_several

    if prefixes:
        generator = generator_of_several(params, prefixes)
    else:
        generator = generator_of(params, variant)
    most = max_new_tokens or params.evaluate.max_new_tokens
    decoding = Decoding(most, temperature, top_p, seed)
    if file is not None:
        most_tokens = params.memory.max_tokens_per_batch
        answer_lines(generator, given, decoding, output, most_tokens, together)
    else:
        answer_one(generator, given[0], decoding, stream)
