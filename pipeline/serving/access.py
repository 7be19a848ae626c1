"""Who may ask: processes of this machine, or whoever brings the key."""

import ipaddress
import os

from pipeline.errors import PipelineError

API_KEY = "SERVE_API_KEY"
"""The environment variable that holds the key. No option: every user can list commands."""


def api_key() -> str | None:
    """The key that requests have to bring; None where none is set."""
    return os.environ.get(API_KEY) or None


def refuse_open_door(host: str, key: str | None) -> None:
    """Raise PipelineError for an address that others reach, where no key is asked of them."""
    if key is None and not is_loopback(host):
        raise PipelineError(
            f"--host: {host} is reached from other machines, and no key is set; set {API_KEY} to a "
            "secret that clients send as their API key, or listen on 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone. A name but localhost may be any."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
