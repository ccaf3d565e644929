"""`stand-in-collector`: takes traces, and writes down of which services they are."""

from __future__ import annotations

import argparse
import gzip
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_SERVICE = re.compile(rb"service\.name\x12.\n.(traefik|mcp-[a-z-]+)", re.DOTALL)


def main() -> int:
    """Take traces until killed."""
    parser = argparse.ArgumentParser(prog="stand-in-collector")
    parser.add_argument("--port", required=True, type=int, help="on loopback")
    parser.add_argument("--file", required=True, type=Path, help="where to write, a line for each service")
    options = parser.parse_args()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self._read()
            if self.headers["Content-Encoding"] == "gzip":
                body = gzip.decompress(body)
            with options.file.open("a") as file:
                file.writelines(f"{service.decode()}\n" for service in _SERVICE.findall(body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _read(self) -> bytes:
            if (length := self.headers["Content-Length"]) is not None:
                return self.rfile.read(int(length))
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def log_message(self, *args: object) -> None:
            """Write no line for each request."""

    ThreadingHTTPServer(("127.0.0.1", options.port), Handler).serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
