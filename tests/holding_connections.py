"""`python holding_connections.py PORT IDLE HEADS BODIES`: so many connections that ask for nothing.

Of them send nothing, half of a request's head, and half of its body. It says `open` once all are,
and for each line that it reads what has become of them: how many wait, were closed, or were told
which status. A process of its own, for half of the files that the connections take are its own.
"""

import collections
import json
import resource
import socket
import sys

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
BODY = b'Content-Length: 50\r\n\r\n{"model"'


def state_of(connection: socket.socket) -> str:
    """What has become of a connection."""
    try:
        said = connection.recv(4096)
    except BlockingIOError:
        return "waits"
    except ConnectionError:
        return "closed"
    return said.split(b" ")[1].decode() if said else "closed"


def main() -> None:
    """Open them, and tell of them until there is nothing more to read."""
    port, *counts = map(int, sys.argv[1:])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    held = []
    for count, sent in zip(counts, (b"", HEAD, HEAD + BODY), strict=True):
        for _ in range(count):
            connection = socket.create_connection(("127.0.0.1", port))
            connection.sendall(sent)
            connection.setblocking(False)
            held.append(connection)
    print("open", flush=True)
    states = ["waits"] * len(held)
    for _ in sys.stdin:
        # What was read once is not there a second time.
        states = [
            state_of(connection) if state == "waits" else state
            for connection, state in zip(held, states, strict=True)
        ]
        print(json.dumps(collections.Counter(states)), flush=True)


if __name__ == "__main__":
    main()
