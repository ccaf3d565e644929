"""`stand-in-backend`: MCP servers at https, which let in clients with a certificate alone, and say what they got."""

from __future__ import annotations

import argparse
import json
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


def main() -> int:
    """Serve until killed."""
    parser = argparse.ArgumentParser(prog="stand-in-backend")
    parser.add_argument("--port", required=True, type=int, help="on loopback")
    parser.add_argument("--certificate", required=True, type=Path, help="its own, and the key")
    parser.add_argument("--authority", required=True, type=Path, help="whose certificates clients need")
    options = parser.parse_args()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(options.certificate)
    context.load_verify_locations(options.authority)
    context.verify_mode = ssl.CERT_REQUIRED
    _Server(options.port, context).serve_forever()
    return 0


class _Server(ThreadingHTTPServer):
    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self.asked: set[str] = set()
        self._context = context
        super().__init__(("127.0.0.1", port), _Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection, unless its client has no certificate or does not believe ours."""
        try:
            with self._context.wrap_socket(request, server_side=True) as secured:
                super().finish_request(secured, client_address)
        except OSError:
            pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        """Answer a message."""
        self.server.asked.add(self.path)
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        match message["method"]:
            case "initialize":
                answer: dict[str, Any] = {
                    "protocolVersion": message["params"]["protocolVersion"],
                    "capabilities": {"tools": {}},
                    "serverInfo": {"name": "stand-in", "version": "0"},
                }
            case "tools/list":
                answer = {"tools": [{"name": "request", "inputSchema": {"type": "object"}}]}
            case "tools/call":
                answer = {"content": [{"type": "text", "text": json.dumps(self._describe())}]}
            case _:
                answer = {}
        body = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": answer}) if "id" in message else ""
        self._answer(200 if body else 202, body.encode())

    def do_DELETE(self) -> None:
        """End a session."""
        self._answer(200, b"")

    def _describe(self) -> dict[str, Any]:
        """Return the headers of the request, the name in the client's certificate, and all paths that were asked."""
        assert isinstance(self.connection, ssl.SSLSocket)
        certificate: Any = self.connection.getpeercert()
        client = dict(pair[0] for pair in certificate["subject"])
        return {"headers": dict(self.headers), "client": client["commonName"], "asked": sorted(self.server.asked)}

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Mcp-Session-Id", "session")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Write no line for each request."""


if __name__ == "__main__":
    sys.exit(main())
