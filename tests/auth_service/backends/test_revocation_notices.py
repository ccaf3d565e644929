"""Revocation notices to bridges, while other servers hang."""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from itsdangerous import URLSafeTimedSerializer

from auth_service.backends import revocation_notices
from auth_service.backends.assertions import REVOCATION_SALT, BackendSigner, derive_identity_key
from auth_service.backends.revocation_notices import RevocationNotices
from auth_service.settings import Credentials, Settings
from auth_service.storage.grants import Grant
from stdio_bridge.http.identity import AssertionVerifier
from tests.auth_service.test_settings import MINIMAL

WAIT_SECONDS = 60
CREDENTIALS = Credentials(client_secret="x", master_key=b"m" * 40)


class Server:
    """Keeps what it is told; it answers nothing while it hangs."""

    def __init__(self) -> None:
        self.told: queue.Queue[str] = queue.Queue()
        self.reached = threading.Event()
        self.answering = threading.Event()
        self.answering.set()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server.reached.set()
                server.answering.wait(WAIT_SECONDS * 2)
                server.told.put(body.decode())
                with contextlib.suppress(OSError):
                    self.send_response(204)
                    self.end_headers()

            def log_message(self, *args: object) -> None:
                """Tests say what they need to."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.origin = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def hears(self) -> str:
        """Return the next grant that it is told of."""
        return _sid(self.told.get(timeout=WAIT_SECONDS))

    def stop(self) -> None:
        self.answering.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that does not answer until the test says so; no time limit helps."""
    monkeypatch.setattr(revocation_notices, "TIMEOUT_SECONDS", WAIT_SECONDS * 4)
    server = Server()
    server.answering.clear()
    yield server
    server.stop()


def make_notices(**backends: list[str]) -> RevocationNotices:
    resources = {name: {"url": _url(name), "backends": each} for name, each in backends.items()}
    return RevocationNotices(Settings.model_validate({**MINIMAL, "resources": resources}), CREDENTIALS)


def grant(sid: str, *, server: str = "time") -> Grant:
    texts: dict[str, Any] = dict.fromkeys(("sub", "name", "client_id", "client_name", "scope", "redirect"), "")
    return Grant(sid=sid, resource=_url(server), created_at=0, **texts)


def _url(name: str) -> str:
    return f"https://{name}.example.com/mcp"


def _sid(body: str) -> str:
    serializer = URLSafeTimedSerializer(b"", salt=REVOCATION_SALT)
    return str(serializer.loads_unsafe(body)[1]["sid"])


def threads(server: Server) -> list[str]:
    return [each.name for each in threading.enumerate() if each.name == f"revocation-push {server.origin}/revocations"]


def test_a_bridge_accepts_the_signed_messages(server: Server) -> None:
    make_notices(time=[f"{server.origin}/mcp"])(grant("abc"))
    body = server.told.get(timeout=WAIT_SECONDS)
    assert (
        AssertionVerifier(derive_identity_key(CREDENTIALS, "time"), now=lambda: 0.0)
        .parse_revocation(body.encode())
        .grant
        == "abc"
    )


def test_a_bridge_is_told_to_end_the_processes_of_a_user(server: Server) -> None:
    notices = make_notices(time=[f"{server.origin}/mcp"])
    notices.end_processes("time", "github:1")
    notices.end_processes("removed meanwhile", "github:1")
    body = server.told.get(timeout=WAIT_SECONDS)
    verifier = AssertionVerifier(derive_identity_key(CREDENTIALS, "time"), now=time.time)
    assert verifier.parse_revocation(body.encode()).user == "github:1"
    notices.close()
    assert server.told.empty()


def test_a_server_that_hangs_delays_no_other(server: Server, hanging: Server) -> None:
    revoked = make_notices(time=[f"{server.origin}/mcp"], slow=[f"{hanging.origin}/mcp"])
    for number in range(40):
        revoked(grant(f"slow{number}", server="slow"))
    assert hanging.reached.wait(WAIT_SECONDS)
    for number in range(40):
        revoked(grant(str(number)))
    assert [server.hears() for _ in range(40)] == [str(number) for number in range(40)]
    assert hanging.told.empty()
    hanging.answering.set()
    assert [hanging.hears() for _ in range(40)] == [f"slow{number}" for number in range(40)]


def test_a_backend_that_hangs_does_not_delay_the_other_backends_of_the_same_server(
    server: Server, hanging: Server
) -> None:
    revoked = make_notices(time=[f"{hanging.origin}/mcp", f"{server.origin}/mcp"])
    for number in range(10):
        revoked(grant(str(number)))
    assert [server.hears() for _ in range(10)] == [str(number) for number in range(10)]


def test_an_origin_gets_one_notice_of_a_grant_for_all_its_paths(server: Server) -> None:
    revoked = make_notices(time=[f"{server.origin}/mcp", f"{server.origin}/mcp"])
    revoked(grant("1"))
    revoked(grant("2"))
    assert [server.hears(), server.hears()] == ["1", "2"]


def test_a_hundred_origins_that_hang_delay_no_other(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocation_notices, "TIMEOUT_SECONDS", WAIT_SECONDS * 4)
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(100)]
        origins = {
            f"slow{number}": [f"http://127.0.0.1:{each.getsockname()[1]}/mcp"] for number, each in enumerate(silent)
        }
        revoked = make_notices(time=[f"{server.origin}/mcp"], **origins)
        for name in origins:
            revoked(grant("1", server=name))
        revoked(grant("2"))
        assert server.hears() == "2"


def test_the_oldest_are_dropped_when_too_many_wait(
    hanging: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(revocation_notices, "MAX_WAITING", 3)
    revoked = make_notices(time=[f"{hanging.origin}/mcp"])
    revoked(grant("first"))
    assert hanging.reached.wait(WAIT_SECONDS)
    for number in range(5):
        revoked(grant(str(number)))
    hanging.answering.set()
    assert [hanging.hears() for _ in range(4)] == ["first", "2", "3", "4"]
    assert len([each for each in caplog.messages if "more than 3 are waiting" in each]) == 2
    revoked.close()
    assert revoked.outcomes == {"delivered": 4, "undelivered": 2}


def test_a_thread_ends_when_all_notices_are_sent_and_the_next_grant_starts_another(server: Server) -> None:
    revoked = make_notices(time=[f"{server.origin}/mcp"])
    revoked(grant("1"))
    revoked.close()
    assert server.hears() == "1"
    assert not threads(server)
    revoked(grant("2"))
    assert server.hears() == "2"
    revoked.close()
    assert not threads(server)


def test_closing_waits_until_all_notices_are_sent(server: Server) -> None:
    server.answering.clear()
    revoked = make_notices(time=[f"{server.origin}/mcp"])
    for number in range(20):
        revoked(grant(str(number)))
    assert server.reached.wait(WAIT_SECONDS)
    server.answering.set()
    revoked.close()
    assert [_sid(server.told.get_nowait()) for _ in range(20)] == [str(number) for number in range(20)]
    assert revoked.outcomes == {"delivered": 20, "undelivered": 0}


def test_closing_does_not_wait_for_a_server_that_hangs(
    hanging: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(revocation_notices, "CLOSE_SECONDS", 0.05)
    revoked = make_notices(time=[f"{hanging.origin}/mcp"])
    revoked(grant("1"))
    assert hanging.reached.wait(WAIT_SECONDS)
    revoked(grant("2"))
    revoked.close()
    assert any("the process ends" in each for each in caplog.messages)


def test_closing_gives_up_a_server_at_its_first_failure(caplog: pytest.LogCaptureFixture) -> None:
    server = Server()
    server.answering.clear()
    revoked = make_notices(time=[f"{server.origin}/mcp"])
    revoked(grant("1"))
    assert server.reached.wait(WAIT_SECONDS)
    for number in range(100):
        revoked(grant(str(number)))
    # From the first one's time-out on.
    revoked.close()
    server.stop()
    assert len([each for each in caplog.messages if "Timeout" in each]) == 1
    assert not threads(server)
    assert revoked.outcomes == {"delivered": 0, "undelivered": 101}


def test_a_grant_ends_also_where_no_thread_can_be_started(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    revoked = make_notices(time=[f"{server.origin}/mcp"])
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", _no_thread)
        revoked(grant("1"))
    assert any(each.levelno == logging.ERROR for each in caplog.records)
    revoked(grant("2"))
    assert [server.hears(), server.hears()] == ["1", "2"]


def test_what_fails_unexpectedly_keeps_an_origin_from_no_other_revocation(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign = BackendSigner.sign_revocation
    monkeypatch.setattr(BackendSigner, "sign_revocation", lambda self, sid: sign(self, {"1": "1"}[sid]))
    revoked = make_notices(time=[f"{server.origin}/mcp"])
    revoked(grant("unexpected"))
    revoked(grant("1"))
    assert server.hears() == "1"


def _no_thread(_thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")
