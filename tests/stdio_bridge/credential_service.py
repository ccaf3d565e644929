"""What the auth service does at `POST /credentials/NAME`, as far as a bridge can tell."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.server
import json
import queue
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from cryptography.fernet import Fernet
from itsdangerous import URLSafeTimedSerializer

from tests.stdio_bridge.running import KEY

_SIGNER = {"key_derivation": "hmac", "digest_method": hashlib.sha256}
WAIT_SECONDS = 60


def serializer(purpose: str) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(KEY.encode(), salt=f"mcp-oauth-gateway.{purpose}", signer_kwargs=_SIGNER)


def encrypt(content: object, *, key: str = KEY) -> bytes:
    derived = hmac.digest(key.encode(), b"mcp-oauth-gateway.credentials", hashlib.sha256)
    sealed = Fernet(base64.urlsafe_b64encode(derived)).encrypt(json.dumps(content).encode())
    return json.dumps({"credentials": sealed.decode()}).encode()


class CredentialService:
    """Answers questions for credentials by what a test sets; a user without any gets 401."""

    def __init__(self, port: int) -> None:
        self.environments: dict[str, Mapping[str, str]] = {}
        self.refusals: dict[str, tuple[int, dict[str, str]]] = {}
        self.changed: dict[str, Any] = {}
        """What the content of an answer has instead."""
        self.body: bytes | None = None
        """What an answer consists of instead."""
        self.asked: queue.Queue[str] = queue.Queue()
        """The users whom questions were about."""
        self.abandoned: queue.Queue[str] = queue.Queue()
        """The users whose question was given up while its answer was held back."""
        self.held: set[str] = set()
        """The users whose answers are held back."""
        self.url = f"http://127.0.0.1:{port}/credentials/notes"

    def give(self, *users: str) -> None:
        """Give users a token each."""
        for user in users:
            self.environments[user] = {"TOKEN": f"token-of-{user}"}

    def answer(self, body: bytes) -> tuple[str, int, dict[str, str], bytes]:
        question = serializer("credential-request").loads(body, max_age=60)
        user = serializer("identity").loads(question["assertion"], max_age=60)["sub"]
        if user in self.refusals:
            status, headers = self.refusals[user]
            return user, status, headers, b"{}"
        environment = self.environments.get(user)
        if environment is None:
            return user, 401, {}, b"{}"
        content = {"nonce": question["nonce"], "sub": user, "environment": environment, "expires_at": None}
        return user, 200, {}, self.body or encrypt({**content, **self.changed})


@contextlib.contextmanager
def credential_service() -> Iterator[CredentialService]:
    """Serve at a free port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/credentials/notes"
            received = self.rfile.read(int(self.headers["Content-Length"]))
            user, status, headers, body = service.answer(received)
            service.asked.put(user)
            if user in service.held:
                self._wait(user)
            with contextlib.suppress(ConnectionError):
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

        def _wait(self, user: str) -> None:
            """Hold the answer back until it is let go, or the bridge has given the question up."""
            self.connection.settimeout(0.05)
            while user in service.held:
                with contextlib.suppress(TimeoutError):
                    if self.connection.recv(1) == b"":
                        service.abandoned.put(user)
                        return

        def log_message(self, format: str, *values: object) -> None:  # noqa: A002 - the name of the base class
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        service = CredentialService(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield service
        finally:
            service.held.clear()
            server.shutdown()
            thread.join()
