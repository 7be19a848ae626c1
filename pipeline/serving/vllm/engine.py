"""vLLM as an engine of `serve`: writes the folder, then runs vLLM with it or says how."""

import os
import socket
import sys
from pathlib import Path

from pipeline.serving.asked import Asked
from pipeline.serving.vllm.command import (
    as_shell,
    serve_arguments,
    serve_command,
    serve_environment,
)
from pipeline.serving.vllm.folder import write_vllm_folder
from pipeline.serving.vllm.selected import model_config, served_dtype
from pipeline.workspace import paths

PYTHON = "VLLM_PYTHON"
"""The environment variable that names the interpreter of an environment with vLLM."""

FOLDER = Path("data/served/vllm")


def serve(asked: Asked) -> None:
    """Write the folder, and become vLLM where VLLM_PYTHON says by which interpreter.

    Else the command is printed: vLLM needs an environment of its own. Raises PipelineError for what
    vLLM cannot serve.
    """
    write_vllm_folder(asked.params, asked.prefixes, FOLDER)
    python = os.environ.get(PYTHON)
    where = ("--host", asked.host, "--port", str(asked.port or _free_port(asked.host)))
    arguments = serve_arguments(
        FOLDER.resolve() if python else FOLDER,
        str(paths.MODEL.resolve() if python else paths.MODEL),
        [asked.model_name, *asked.prefixes],
        served_dtype(asked.params, model_config()),
        where,
    )
    if python is None:
        print(as_shell(str(FOLDER), ["vllm", "serve", *arguments[1:]]))
        print(
            f"{FOLDER}: run this in an environment that has vLLM, or set {PYTHON} to the "
            f"interpreter of one; {FOLDER / 'README.md'} says how to ask",
            file=sys.stderr,
        )
        return
    environment = serve_environment(FOLDER)
    if asked.api_key is not None:
        environment["VLLM_API_KEY"] = asked.api_key
    command = serve_command(python, arguments)
    os.execvpe(command[0], command, environment)


def _free_port(host: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as free:
        free.bind((host, 0))
        return int(free.getsockname()[1])
