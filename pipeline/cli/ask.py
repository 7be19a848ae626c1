"""`python -m pipeline ask`: answers from a library of prefixes, one a document."""

import sys
from pathlib import Path

import click

from pipeline.config import load_params
from pipeline.errors import PipelineError


@click.command()
@click.argument("question")
@click.option(
    "--documents",
    type=click.Path(path_type=Path),
    help="A folder with a text of each document: <name>.txt, .md, .html, ...  "
    "[default: library.documents of params.yaml, else documents]",
)
@click.option(
    "--prefixes",
    type=click.Path(path_type=Path),
    help="A folder with a prefix of each: <name>.safetensors or <name>/prefix.safetensors.  "
    "[default: those of the library, else prefixes]",
)
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="The most documents whose prefixes stand before the question.",
)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    help="The longest answer, in tokens.  [default: evaluate.max_new_tokens]",
)
def ask(
    question: str,
    documents: Path | None,
    prefixes: Path | None,
    top: int,
    max_new_tokens: int | None,
) -> None:
    """Answer QUESTION with the prefixes of the documents that it is about.

    BM25 picks the documents by the words that they share with QUESTION, those with at least half
    of the best one's score; their prefixes are put one
    after another, the best next to QUESTION, and no other is loaded. Which they are is printed to
    standard error. QUESTION is an input as `generate` takes it. Without options the documents are
    those of `library` in params.yaml, with the prefixes that its stages trained.

    \b
    python -m pipeline ask "How long is the coastline of Kenya?"
    python -m pipeline ask "..." --documents handbooks --prefixes trained --top 1
    """
    if not question.strip():
        raise PipelineError("the question is empty")
    params = load_params()
    from pipeline.inference.answering import answer_one
    from pipeline.inference.generator import Decoding, generator_of_several
    from pipeline.inference.library import find, library_in, library_of

    always_visible = params.prefix.prefix_always_visible
    if documents is None and prefixes is None and params.library.documents:
        library = library_of(params.library)
        always_visible = params.library.prefix.prefix_always_visible
    else:
        library = library_in(documents or Path("documents"), prefixes or Path("prefixes"))
    found = find(question, library, top)
    told = ", ".join(f"{document.name} ({document.score:.2f})" for document in found)
    print(f"answering from {told}", file=sys.stderr)
    chosen = [str(document.prefix) for document in found[::-1]]
    generator = generator_of_several(params, chosen, always_visible)
    decoding = Decoding(max_new_tokens or params.evaluate.max_new_tokens)
    answer_one(generator, question, decoding, stream=True)
