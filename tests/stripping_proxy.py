"""A reverse proxy that serves a server below a prefix and takes the prefix away, as a web server in front of several programs does.

Everything that is asked without the prefix is counted: a page that knows where it is asks for nothing there.
"""

from __future__ import annotations

import contextlib
import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "proxy-connection"})


class StrippingProxy:
    """One proxy on this machine; `url` is where the server is seen."""

    def __init__(self, port: int, prefix: str) -> None:
        self.outside: list[str] = []  # paths that lack the prefix
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            """Passes one request on and closes, so that an answer of any length ends."""

            def do_GET(self) -> None:
                if not self.path.startswith(f"{prefix}/"):
                    proxy.outside.append(self.path)
                    self.send_error(404)
                    return
                length = int(self.headers.get("content-length", 0))
                line = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
                with contextlib.closing(line), contextlib.suppress(ConnectionError, http.client.HTTPException):  # one of the two has gone
                    headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
                    line.request(self.command, self.path.removeprefix(prefix), self.rfile.read(length) if length else None, {**headers, "connection": "close"})
                    self.pass_back(line.getresponse())

            do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815 - the names are the library's

            def pass_back(self, answer: http.client.HTTPResponse) -> None:
                """Head and body as they come."""
                self.send_response_only(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in HOP_BY_HOP:
                        self.send_header(name, value)
                self.end_headers()
                while piece := answer.read1(65_536):
                    self.wfile.write(piece)
                    self.wfile.flush()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self.url = f"http://localhost:{self.port}{prefix}/"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
