"""The socket that a server of ours takes requests from."""

import socket

from pipeline.errors import PipelineError


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound; what comes before it listens is refused.

    Raises PipelineError for an address that is no address, or is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise PipelineError(
            f"--host {host} --port {port}: cannot be listened on ({error.strerror or error}); "
            "choose another, or --port 0 for any that is free"
        ) from error
    return listening


def url_of(listening: socket.socket) -> str:
    """Where clients find OpenAI's endpoints."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
