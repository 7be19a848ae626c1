"""The command that starts vLLM with a folder of prefixes."""

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TESTED_WITH = "0.32.0"
"""The release of vLLM that a folder was tried with (`make test-vllm`): KV connectors may change."""

TRANSFER = {
    "kv_connector": "PrefixConnector",
    "kv_connector_module_path": "prefix_connector",
    "kv_role": "kv_consumer",
}
TEMPLATE = "chat_template.jinja"

# What `vllm serve` runs. The command asks for the version of a package `vllm`, which the build for
# CPUs has under another name.
_MODULE = ("-m", "vllm.entrypoints.openai.api_server")


def serve_arguments(
    folder: Path, model: str, names: Sequence[str], dtype: str, extra: Sequence[str] = ()
) -> list[str]:
    """The arguments of vLLM's server for the prefixes in `folder`.

    `names` are those of models: first the frozen model's, then the prefixes'. `extra` come last.
    """
    arguments = [
        *("--model", model, "--served-model-name", *names, "--dtype", dtype),
        *("--kv-transfer-config", json.dumps(TRANSFER)),
        *("--logits-processors", "prefix_connector:RefusePromptLogprobs"),
        *("--middleware", "prefix_requests.PrefixRequests"),
    ]
    if (folder / TEMPLATE).exists():
        arguments += ["--chat-template", str(folder / TEMPLATE)]
    return [*arguments, *extra]


def serve_command(python: str, arguments: Sequence[str]) -> list[str]:
    """The server as a process of an interpreter that has vLLM."""
    return [python, *_MODULE, *arguments]


def serve_environment(folder: Path, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment in which vLLM finds the connector, which lies in `folder`."""
    known = environment.get("PYTHONPATH")
    path = str(folder.resolve())
    return {**environment, "PYTHONPATH": f"{path}{os.pathsep}{known}" if known else path}


def as_shell(folder: str, command: Sequence[Any]) -> str:
    """The command as a person types it, an option a line."""
    words = [shlex.quote(str(word)) for word in command]
    lines: list[str] = []
    for word in words:
        if word.startswith("--") or not lines:
            lines.append(word)
        else:
            lines[-1] += f" {word}"
    return " \\\n  ".join([f"PYTHONPATH={shlex.quote(folder)} {lines[0]}", *lines[1:]])
