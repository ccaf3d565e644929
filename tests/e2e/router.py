"""The real Traefik with our routes, in front of backends that answer with their names."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import requests

from auth_service.app.traefik import dynamic_configuration
from auth_service.settings import Settings
from local.options import require_program
from local.ports import free_port
from tests.e2e.flow import SourceAddress

WAIT_SECONDS = 60
UNREACHABLE = "the MCP server does not answer"
"""What the authorization server says in place of Traefik's 502."""
NO_REPLICA = "no replica of the MCP server answers"
"""What it says in place of Traefik's 503."""
TOO_LARGE = "too large for a request without a session id"
"""What it says in place of Traefik's 413."""
NOWHERE = "nothing is at this path"
"""What it says where nothing else has a route."""
REFUSED = "/mcp/refused"
"""What a backend answers with 503."""


class Backend:
    """An HTTP server that says who it is; one that takes part in a round can be killed and come back."""

    def __init__(
        self,
        answers: dict[str, str],
        *,
        name: str,
        port: int = 0,
        headers: Callable[[], dict[str, str]] = dict,
        refused: str = REFUSED,
    ) -> None:
        self._connections: list[socket.socket] = []
        connections = self._connections
        self._asked: list[str] = []
        asked = self._asked

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                connections.append(self.connection)

            def do_GET(self) -> None:
                asked.append(self.path)
                body = answers.get(self.path, name).encode()
                self.send_response(503 if self.path == refused else 200)
                self.send_header("Content-Length", str(len(body)))
                for header, value in headers().items():
                    self.send_header(header, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                """Tests say what they need to."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def asked(self, path: str) -> int:
        """Return how often a path was asked for."""
        return self._asked.count(path)

    def stop(self) -> None:
        """Stop listening, and close every connection."""
        self._server.shutdown()
        self._server.server_close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()


class Router:
    """Traefik in front of one resource, `/mcp`. The authorization server is a backend that lets everything pass."""

    def __init__(
        self,
        folder: Path,
        resource: dict[str, Any],
        *,
        settings: dict[str, Any] | None = None,
        trusted_proxies: list[str] | None = None,
        change: Callable[[dict[str, Any]], None] = lambda _routes: None,
        program: str = "traefik",
        identity: Callable[[], dict[str, str]] = dict,
        tls: bool = False,
    ) -> None:
        """Start it; `change` may change the routes first, `identity` is what each verification adds to a request.

        With `tls`, its certificate is the one that Traefik makes for itself.
        """
        self.port = free_port()
        self._scheme = "https" if tls else "http"
        url = f"{self._scheme}://localhost:{self.port}"
        answers: dict[str, str] = {}
        self._auth = Backend(answers, name="auth", headers=identity)
        document = {
            "issuer": url,
            "identity_provider": {"type": "github", "client_id": "x"},
            "redis_url": "unix:///unused",
            "state_directory": "/unused",
            "internal_url": self._auth.url,
            "router": {"entry_points": ["web"], "trusted_proxies": trusted_proxies or [], "tls": tls},
            "resources": {"time": {"url": f"{url}/mcp", **resource}},
            **(settings or {}),
        }
        groups = ("registration", "authorization", "token", "metadata", "nowhere")
        answers |= {f"/refusals/{group}/429": f"refused at {group}" for group in groups}
        answers |= {"/refusals/mcp/502": UNREACHABLE, "/refusals/by-grant/502": UNREACHABLE}
        answers |= {"/refusals/mcp/503": NO_REPLICA, "/refusals/by-grant/413": TOO_LARGE}
        answers["/refusals/nowhere/404"] = NOWHERE
        routes = dynamic_configuration(Settings.model_validate(document))
        change(routes["http"])
        answers["/routes"] = json.dumps(routes)
        entry_point: dict[str, Any] = {"address": f"127.0.0.1:{self.port}"}
        if trusted_proxies:
            entry_point["forwardedHeaders"] = {"trustedIPs": trusted_proxies}
        static = {
            "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
            "entryPoints": {"web": entry_point},
            "providers": {"http": {"endpoint": f"{self._auth.url}/routes", "pollInterval": "1s"}},
        }
        configuration = folder / "traefik.json"
        configuration.write_text(json.dumps(static))
        program = require_program(program, needed_by="this test")
        self._log = (folder / "traefik.log").open("w+")
        self._process = subprocess.Popen([program, f"--configFile={configuration}"], stdout=self._log, stderr=self._log)

    def get(self, path: str, headers: dict[str, str] | None = None, *, address: str = "127.0.0.1") -> requests.Response:
        """Ask from an address of one's choice."""
        return self.request("GET", path, headers, address=address)

    def request(
        self, method: str, path: str, headers: dict[str, str] | None = None, *, address: str = "127.0.0.1"
    ) -> requests.Response:
        """As `get`, by any method."""
        with requests.Session() as client:
            client.mount(f"{self._scheme}://", SourceAddress(address))
            return client.request(
                method,
                f"{self._scheme}://127.0.0.1:{self.port}{path}",
                headers={"Host": "localhost", **(headers or {})},
                verify=False,
                timeout=60,
            )

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Wait until the condition holds; while it raises ConnectionError it does not."""
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(requests.ConnectionError):
                if condition():
                    return
            time.sleep(0.05)
        self._log.seek(0)
        raise AssertionError(f"it never came true\n{self._log.read()[-3000:]}")

    def stop(self) -> None:
        """End Traefik and what it asks."""
        self._process.terminate()
        self._process.wait(60)
        self._log.close()
        self._auth.stop()
