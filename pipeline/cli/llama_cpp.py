"""`python -m pipeline serve-llama-cpp` and `export-llama-cpp`: prefixes for llama.cpp."""

from collections.abc import Callable
from pathlib import Path

import click
from click.core import ParameterSource

from pipeline.cli.names import complete_prefixes
from pipeline.cli.options import variant_option
from pipeline.config import load_params
from pipeline.sweep.variants import BEST

_OPTIONS = (
    click.option(
        "--cache-type",
        default="f16",
        show_default=True,
        metavar="TYPE",
        help="Of cached keys and values: f32, f16 or bf16.",
    ),
    click.option(
        "--flash-attn/--no-flash-attn",
        default=True,
        show_default=True,
        help="Whether llama.cpp computes attention so; without, its values are transposed.",
    ),
    click.option(
        "--slots",
        type=click.IntRange(1, 256),
        default=2,
        show_default=True,
        help="Requests that are answered at once.",
    ),
    click.option(
        "--context",
        type=click.IntRange(min=4),
        default=2048,
        show_default=True,
        help="Positions of a slot: prefix, input and answer.",
    ),
    click.option(
        "--threads", type=click.IntRange(min=1), help="Threads that compute.  [default: all cores]"
    ),
)


def _server_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def _given(names: tuple[str, ...]) -> str | None:
    """The first of these options that the command line has."""
    context = click.get_current_context()
    told = (n for n in names if context.get_parameter_source(n) is ParameterSource.COMMANDLINE)
    return next((name.replace("_", "-") for name in told), None)


@click.command("serve-llama-cpp")
@click.option(
    "--prefix",
    "prefixes",
    multiple=True,
    default=(BEST,),
    show_default=True,
    metavar="NAME",
    shell_complete=complete_prefixes,
    help="May be given more than once. A variant, a file prefix.safetensors, or a PEFT adapter's "
    "folder; its name is the model's in requests.",
)
@click.option(
    "--gguf",
    type=click.Path(path_type=Path),
    help="The frozen model, to start it here.  [default: the file that model.source: wheel names]",
)
@click.option("--server", metavar="URL", help="A server of llama.cpp's that runs already.")
@click.option(
    "--state-folder",
    type=click.Path(path_type=Path),
    help="The --slot-save-path of --server.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@_server_options
def serve_llama_cpp(
    prefixes: tuple[str, ...],
    gguf: Path | None,
    server: str | None,
    state_folder: Path | None,
    port: int,
    cache_type: str,
    flash_attn: bool,
    slots: int,
    context: int,
    threads: int | None,
) -> None:
    """Serve prefixes by llama.cpp, at OpenAI's endpoints.

    llama.cpp's keys and values are compared with transformers' first. Each prefix is a model of its
    name, `no_prefix` the frozen model alone. Programs of this machine may ask.

    \b
    python -m pipeline serve-llama-cpp
    python -m pipeline serve-llama-cpp --gguf model.gguf --slots 4
    python -m pipeline serve-llama-cpp --prefix len32-random-seed0 --prefix handbook.safetensors
    python -m pipeline serve-llama-cpp --server http://127.0.0.1:8080 --state-folder slots
    """
    if gguf is not None and server is not None:
        raise click.UsageError("give either --gguf or --server")
    if (server is None) != (state_folder is None):
        raise click.UsageError("--server needs --state-folder, and --state-folder --server")
    if server is not None and (given := _given(("cache_type", "flash_attn", "slots", "context"))):
        raise click.UsageError(f"--server has its own {given}; give that where it is started")
    params = load_params()
    from pipeline.serving.llama_cpp.launching import ServerOptions
    from pipeline.serving.llama_cpp.prefixes import named_prefixes
    from pipeline.serving.llama_cpp.server import LlamaServer
    from pipeline.serving.llama_cpp.serving import Door, serve_llama_cpp

    options = ServerOptions(cache_type, flash_attn, slots, context, threads)
    if server is not None and state_folder is not None:
        running: LlamaServer | Path | None = LlamaServer(server.rstrip("/"), state_folder)
    else:
        running = gguf
    named = named_prefixes(params, prefixes)
    serve_llama_cpp(params, named, running, options, click.echo, Door(port=port))


@click.command("export-llama-cpp")
@click.argument("folder", type=click.Path(path_type=Path))
@variant_option
@click.option(
    "--verify",
    "gguf",
    type=click.Path(path_type=Path),
    metavar="MODEL.gguf",
    help="The frozen model for llama.cpp, whose keys and values are compared with transformers' "
    "before anything is written.  [default: the file that model.source: wheel names]",
)
@click.option(
    "--state-version",
    type=int,
    help="LLAMA_STATE_SEQ_VERSION of the llama.cpp that restores it.  [default: of that installed]",
)
@click.option("--force", is_flag=True, help="Replace FOLDER, whatever is in it.")
@_server_options
def export_llama_cpp(
    folder: Path,
    variant: str,
    gguf: Path | None,
    state_version: int | None,
    force: bool,
    cache_type: str,
    flash_attn: bool,
    slots: int,
    context: int,
    threads: int | None,
) -> None:
    """Write a prefix as a state file of llama.cpp into FOLDER, and how it is restored.

    \b
    python -m pipeline export-llama-cpp for-llama-cpp
    python -m pipeline export-llama-cpp for-llama-cpp --verify model.gguf --slots 4 --cache-type f32
    """
    params = load_params()
    from pipeline.serving.llama_cpp.export import export_llama_cpp
    from pipeline.serving.llama_cpp.launching import ServerOptions

    options = ServerOptions(cache_type, flash_attn, slots, context, threads)
    name, verified = export_llama_cpp(
        params, variant, folder, gguf, options, version=state_version, replace=force
    )
    click.echo(verified.sentence)
    click.echo(f"{folder}: {name} for llama.cpp, with how it is restored")
