"""A tracking server in trouble: it answers every request with an error, or not at all."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def troubled_server(trouble: str) -> Iterator[str]:
    """The address of a server on this machine that is `refusing`, `failing` or `silent`."""
    if trouble == "refusing":
        yield "http://127.0.0.1:9"
        return
    is_over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            if trouble == "silent":
                is_over.wait(30)
                return
            self.send_response(500)
            self.end_headers()

        do_GET = do_POST = do_PATCH = do_PUT = answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        is_over.set()
        server.shutdown()
        server.server_close()
