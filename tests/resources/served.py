"""A server of a test's own on a port of this machine, for clients that we didn't write."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

Respond = Callable[[str, str, Mapping[str, str], bytes], httpx.Response]
"""What is answered to a method, a target, headers by their names in small letters, and a body."""


@contextmanager
def serving(respond: Respond) -> Generator[str]:
    """Gives the address, without a path."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", "0")))
            response = respond(self.command, self.path, headers, body)
            content = response.read()
            self.send_response(response.status_code)
            for name, value in response.headers.items():
                if name not in {"content-length", "content-encoding", "connection"}:
                    self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name it overrides
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@contextmanager
def served(handle: Callable[[httpx.Request], httpx.Response]) -> Generator[str]:
    """Gives the address of a fake provider, which handles one request after the other."""
    lock = threading.Lock()

    def respond(method: str, target: str, headers: Mapping[str, str], body: bytes) -> httpx.Response:
        with lock:
            return handle(httpx.Request(method, f"http://fake.test{target}", headers=dict(headers), content=body))

    with serving(respond) as address:
        yield address
