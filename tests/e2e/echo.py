"""A server behind the gateway without a bridge, which answers with the request that it got."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class EchoServer:
    """Answers every request with its own method, path and headers as JSON, and agrees to every upgrade.

    Headers `Echo-NAME` come back as NAME.
    """

    def __init__(self) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def echo(self) -> None:
                if protocol := self.headers.get("Upgrade"):
                    self.send_response(101)
                    self.send_header("Connection", "Upgrade")
                    self.send_header("Upgrade", protocol)
                    self.end_headers()
                    self.close_connection = True
                    return
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                seen = {"method": self.command, "path": self.path, "headers": self.headers.items()}
                body = json.dumps(seen).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                for name, value in self.headers.items():
                    if name.lower().startswith("echo-"):
                        self.send_header(name[len("echo-") :], value)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_TRACE = do_TRACK = do_PROPFIND = echo  # noqa: N815 - http.server's names

            def log_message(self, *args: object) -> None:
                """Tests say what they need to."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/mcp"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
