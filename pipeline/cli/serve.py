"""`python -m pipeline serve`: trained prefixes behind OpenAI's protocol."""

from dataclasses import replace

import click

from pipeline.cli.names import complete_prefixes
from pipeline.config import load_params
from pipeline.serving.engines import ENGINES


@click.command()
@click.option(
    "--engine",
    type=click.Choice(list(ENGINES)),
    default="transformers",
    show_default=True,
    help="What computes the answers.",
)
@click.option(
    "--prefix",
    "prefixes",
    multiple=True,
    metavar="NAME=PATH",
    shell_complete=complete_prefixes,
    help="Serve a prefix as the model NAME: a variant, a file prefix.safetensors, or a PEFT "
    "adapter's folder. May be repeated.  [default: serving.prefixes, else every trained variant, "
    "and the best]",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="The address to listen on. Any but this machine's own needs a key in the environment "
    "variable SERVE_API_KEY, which clients then have to send.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="0 takes any that is free.",
)
def serve(engine: str, prefixes: tuple[str, ...], host: str, port: int) -> None:
    """Serve trained prefixes by OpenAI's protocol, each as a model of its own.

    One frozen model serves them all, and is served without a prefix, too, by its own name. Bounds
    and llama.cpp's options are in the section `serving` of params.yaml.

    \b
    python -m pipeline serve
    python -m pipeline serve --prefix support=len32-random-seed0 --prefix faq=faq.safetensors
    python -m pipeline serve --engine llama.cpp
    curl localhost:8000/v1/chat/completions -H 'Content-Type: application/json' \\
      -d '{"model": "best", "messages": [{"role": "user", "content": "..."}]}'
    """
    params = load_params()
    from pipeline.serving.access import api_key, refuse_open_door
    from pipeline.serving.asked import Asked, model_name, served_prefixes
    from pipeline.serving.engines import serve_with

    key = api_key()
    refuse_open_door(host, key)
    served = served_prefixes(params, prefixes)
    asked = Asked(params, model_name(params), served, host, port, key)

    def checked(found: str) -> None:
        from pipeline.tracking.checked_engines import record_check

        record_check(params, asked.variants, engine, found)

    serve_with(engine, replace(asked, checked=checked))
