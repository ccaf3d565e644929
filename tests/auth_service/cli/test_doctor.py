"""What `mcp-gatewayctl doctor` finds: each failure is named, with what to do, and a sound gateway has none."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from jwt.algorithms import ECAlgorithm
from werkzeug.serving import make_server
from werkzeug.wrappers import Request, Response

from auth_service.cli.doctor import authorization_server, dependencies, web
from auth_service.cli.doctor.examination import examine as run_all
from auth_service.cli.doctor.findings import CheckFailed, Finding, Status, run
from auth_service.keys.signing_keys import SigningKeys
from auth_service.oauth.issuer_keys import DISCOVERY_PATH
from auth_service.oauth.revocation import Revocation
from auth_service.settings import Credentials, Settings
from auth_service.storage.store import Store
from tests.internet import Internet, internet, key_usage_of_authority, respond, respond_json

ISSUER = "https://ci.example.com"
CREDENTIALS = Credentials(client_secret="secret", master_key=b"k" * 32)


class Outside:
    """Everything that the doctor asks over HTTP, sound until a test changes an answer."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], Callable[[Request], Response]] = {}
        self.jwks: dict[str, Any] = {}
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def change(self, method: str, path: str, status: int, body: Any = None, **headers: str) -> None:
        text = body if isinstance(body, str) else json.dumps(body)
        self.answers[method, path] = lambda _request: Response(text, status, headers, mimetype="application/json")

    def _answer(self, environ: Any, start: Any) -> Any:
        request = Request(environ)
        changed = self.answers.get((request.method, request.path))
        return (changed(request) if changed else self.sound(request))(environ, start)

    def sound(self, request: Request) -> Response:
        """Answer as a gateway should."""
        documents: dict[str, Any] = {
            "/.well-known/oauth-authorization-server": {
                "issuer": self.url,
                "client_id_metadata_document_supported": True,
            },
            "/.well-known/oauth-protected-resource/mcp": {
                "resource": f"{self.url}/mcp",
                "authorization_servers": [self.url],
            },
            "/jwks": self.jwks,
            "/internal/readyz": {"redis": True},
            "/statusz/time": {"mcp-stdio-bridge": {"answered": 1.5, "needed": 2.5, "failed": None}},
        }
        if request.path in documents:
            return Response(json.dumps(documents[request.path]), mimetype="application/json")
        if request.path == "/backend" or (request.path == "/mcp" and request.authorization):
            return Response(json.dumps({"jsonrpc": "2.0", "id": 1, "result": {}}), mimetype="application/json")
        if request.path in {"/mcp", "/mcp/"}:
            where = f"{self.url}/.well-known/oauth-protected-resource/mcp"
            return Response(status=401, headers={"WWW-Authenticate": f'Bearer resource_metadata="{where}"'})
        return Response(status=404)


@pytest.fixture
def outside() -> Iterator[Outside]:
    outside = Outside()
    yield outside
    outside.close()


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Internet]:
    with internet(tmp_path, "claude.ai", "chatgpt.com", "vscode.dev", "ci.example.com") as made:
        for module in ("authorization_server", "dependencies"):
            monkeypatch.setattr(f"auth_service.cli.doctor.{module}.make_fetcher", lambda _documents: made.fetcher())
        key = {**ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key(), as_dict=True), "kid": "1"}
        made.pages[DISCOVERY_PATH] = respond_json({"issuer": ISSUER, "jwks_uri": f"{ISSUER}/jwks"})
        made.pages["/jwks"] = respond_json({"keys": [key]})
        yield made


@pytest.fixture
def client_documents() -> dict[str, Any]:
    return {}


class Proxy:
    """The egress proxy of a server: it answers each request with `answer`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answer = b"HTTP/1.1 403 Forbidden\r\n\r\n"
        self.asked: list[bytes] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection:
                    self.asked.append(connection.recv(1000))
                    connection.sendall(self.answer)


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    made = Proxy(tmp_path / "proxy")
    yield made
    made.close()


@pytest.fixture
def examine(
    outside: Outside, proxy: Proxy, net: Internet, client_documents: dict[str, Any], redis_url: str
) -> Iterator[Callable[[], dict[str, Finding]]]:
    settings = Settings.model_validate(
        {
            "issuer": outside.url,
            "identity_provider": {"type": "github", "client_id": "app", "url": outside.url, "api_url": outside.url},
            "redis_url": redis_url,
            "state_directory": str(proxy.path.parent),
            "internal_url": f"{outside.url}/internal",
            "router": {"entry_points": ["web"]},
            "client_documents": client_documents,
            "trusted_issuers": {
                "ci": {"issuer": ISSUER, "audience": "mcp", "subjects": ["repo:acme/app"], "servers": ["time"]}
            },
            "resources": {
                "time": {
                    "url": f"{outside.url}/mcp",
                    "backends": [f"{outside.url}/backend"],
                    "status_urls": {f"{outside.url}/backend": f"{outside.url}/statusz/time"},
                    "egress_socket": str(proxy.path),
                }
            },
        }
    )
    keys = SigningKeys(proxy.path.parent / "keys", CREDENTIALS)
    outside.jwks = keys.jwks()
    store = Store(settings)
    revocation = Revocation(store, grants_per_client=1, notify=lambda _grant: None)
    yield lambda: {finding.check: finding for finding in run_all(settings, CREDENTIALS, store, revocation, keys)}
    store.close()


def test_a_sound_gateway_has_no_problem(examine: Callable[[], dict[str, Finding]]) -> None:
    found = examine()
    assert {check for check, finding in found.items() if finding.status is not Status.OK} == {"redis"}
    assert found["redis"].status is Status.WARNING, "the tests' own keeps nothing on disk"
    assert "appendonly" in (found["redis"].advice or "")


def test_an_issuer_whose_keys_cannot_be_fetched_is_named_with_the_reason(
    examine: Callable[[], dict[str, Finding]], net: Internet
) -> None:
    assert examine()["trusted issuer ci"].text == f"{ISSUER}: 1 keys found by its discovery document"
    net.pages["/jwks"] = respond(b"", status="302 Found", location=f"{ISSUER}/elsewhere")
    found = examine()["trusted issuer ci"]
    assert found.status is Status.PROBLEM
    assert "the keys cannot be fetched: it cannot be fetched: the answer's status is not 200" in found.text
    assert "keysFile" in (found.advice or "")
    net.addresses["ci.example.com"] = ("10.0.0.1",)
    assert "it has an address that is not public" in examine()["trusted issuer ci"].text


def test_documents_that_cannot_be_fetched_are_named_with_the_reason_and_a_way_out(
    examine: Callable[[], dict[str, Finding]], net: Internet
) -> None:
    assert examine()["client documents"].text == "can be fetched"
    net.addresses["claude.ai"] = ()
    del net.addresses["vscode.dev"]
    found = examine()["client documents"]
    assert found.status is Status.WARNING
    assert (
        "https://claude.ai/oauth/claude-code-client-metadata: its host was not found on the public internet ("
        in found.text
    )
    assert (
        "https://vscode.dev/oauth/client-metadata.json: its host was not found on the public internet (" in found.text
    )
    assert "chatgpt.com" not in found.text
    assert "clientDocuments.proxy" in (found.advice or "")


def test_a_service_that_does_not_offer_what_can_be_fetched_is_named(
    examine: Callable[[], dict[str, Finding]], outside: Outside
) -> None:
    outside.change("GET", "/.well-known/oauth-authorization-server", 200, {"issuer": outside.url})
    found = examine()["client documents"]
    assert (found.status, found.text) == (
        Status.WARNING,
        "can be fetched from here, but the service does not offer them",
    )


@pytest.mark.parametrize(
    ("client_documents", "text"),
    [
        ({"enabled": False}, "are off: every client registers"),
        ({"proxy": "http://10.0.0.1:3128"}, "can be fetched through http://10.0.0.1:3128"),
        (
            {"proxy": "http://10.0.0.1:3128", "proxy_resolves_names": True},
            "can be fetched through http://10.0.0.1:3128, which alone resolves names and can refuse internal addresses",
        ),
    ],
)
def test_what_the_settings_say_of_documents_is_told(examine: Callable[[], dict[str, Finding]], text: str) -> None:
    found = examine()["client documents"]
    assert (found.status, found.text) == (Status.OK, text)


def test_a_status_service_that_answers_tells_whether_the_bridge_sleeps(
    examine: Callable[[], dict[str, Finding]], outside: Outside
) -> None:
    assert examine()["status time"].text == f"{outside.url}/statusz/time answers: the bridge runs"
    asleep = {"answered": None, "needed": None, "failed": None, "asleep": True}
    outside.change("GET", "/statusz/time", 200, {"mcp-stdio-bridge": asleep})
    found = examine()["status time"]
    assert (found.status, found.text) == (Status.OK, f"{outside.url}/statusz/time answers: the bridge sleeps")


@pytest.mark.parametrize(("status", "body"), [(404, ""), (200, "<html>"), (200, {})])
def test_a_status_service_that_does_not_answer_is_a_warning(
    examine: Callable[[], dict[str, Finding]], outside: Outside, status: int, body: Any
) -> None:
    outside.change("GET", "/statusz/time", status, body)
    found = examine()["status time"]
    assert found.status is Status.WARNING
    assert "cannot be reached: no bridge answers, for which the status service was asked" in found.text
    assert "mcp-gateway-status.socket" in (found.advice or "")


def test_an_egress_proxy_that_refuses_an_unknown_name_is_well(
    examine: Callable[[], dict[str, Finding]], proxy: Proxy
) -> None:
    assert examine()["egress time"].status is Status.OK
    assert proxy.asked == [b"CONNECT doctor.invalid:443 HTTP/1.1\r\n\r\n"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 200 Connection established\r\n\r\n", "answers HTTP/1.1 200 Connection established to"),
        (b"\x1b[2J\n", "answers \\x1b[2J to"),
        (b"", "answers nothing to"),
    ],
)
def test_another_answer_of_an_egress_proxy_is_a_problem(
    examine: Callable[[], dict[str, Finding]], proxy: Proxy, answer: bytes, said: str
) -> None:
    proxy.answer = answer
    found = examine()["egress time"]
    assert found.status is Status.PROBLEM
    assert said in found.text
    assert "mcp-egress-time.socket" in (found.advice or "")


def test_an_egress_proxy_that_is_not_there_is_a_problem(
    examine: Callable[[], dict[str, Finding]], proxy: Proxy
) -> None:
    proxy.path.unlink()
    found = examine()["egress time"]
    assert found.status is Status.PROBLEM
    assert "No such file or directory" in found.text
    assert "mcp-egress-time.socket" in (found.advice or "")


def examine_provider(outside: Outside, *, vouches: bool) -> Finding:
    """Check an OpenID Connect provider, which vouches for users of a declared client or for none."""
    client = {
        "secret": True,
        "user_assertions": vouches,
        "redirect_uris": ["https://desktop.example.com/callback"],
    }
    settings = Settings.model_validate(
        {
            "issuer": outside.url,
            "identity_provider": {"type": "oidc", "client_id": "app", "issuer": outside.url, "title": "SSO"},
            "redis_url": "unix:///nowhere",
            "state_directory": "/nowhere",
            "router": {"entry_points": ["web"]},
            "declared_clients": {"desktop": client},
            "resources": {"time": {"url": f"{outside.url}/mcp", "backends": [f"{outside.url}/backend"]}},
        }
    )
    with web.connect() as http:
        return run("", lambda: dependencies.check_identity_provider(http, settings, CREDENTIALS))


OPENID_DOCUMENT = ("GET", "/.well-known/openid-configuration")


def test_a_provider_that_vouches_for_users_must_publish_its_keys(outside: Outside) -> None:
    key = {**ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key(), as_dict=True), "kid": "1"}
    outside.change(*OPENID_DOCUMENT, 200, {"issuer": outside.url, "jwks_uri": f"{outside.url}/keys"})
    outside.change("GET", "/keys", 200, {"keys": [key]})
    assert examine_provider(outside, vouches=True).text == (
        f"{outside.url} is found, with 1 keys for the assertions of its users"
    )
    for status, body, text in (
        (200, {"keys": []}, "its key set holds no key of an accepted algorithm"),
        (200, "<html>", "/keys is not JSON"),
        (404, "", "/keys answers 404"),
    ):
        outside.change("GET", "/keys", status, body)
        found = examine_provider(outside, vouches=True)
        assert found.status is Status.PROBLEM
        assert text in found.text
        assert "userAssertions" in (found.advice or "")
        assert examine_provider(outside, vouches=False).text == f"{outside.url} is found"


def test_a_provider_without_a_key_set_or_with_another_issuer_is_a_problem(outside: Outside) -> None:
    outside.change(*OPENID_DOCUMENT, 200, {"issuer": outside.url})
    assert "has no jwks_uri" in examine_provider(outside, vouches=True).text
    assert examine_provider(outside, vouches=False).status is Status.OK
    for status, body, text in ((200, {"issuer": "x"}, "names the issuer x"), (404, "", "answers 404")):
        outside.change(*OPENID_DOCUMENT, status, body)
        found = examine_provider(outside, vouches=False)
        assert (found.status, text in found.text) == (Status.PROBLEM, True)
        assert "identity_provider.issuer" in (found.advice or "")


RESOURCE_DOCUMENT = ("GET", "/.well-known/oauth-protected-resource/mcp")
SERVER_DOCUMENT = ("GET", "/.well-known/oauth-authorization-server")
WRONG_CHALLENGE = {"WWW-Authenticate": "Bearer"}


@pytest.mark.parametrize(
    ("asked", "answer", "finding"),
    [
        (("POST", "/mcp/"), (307, "", {"Location": "/mcp"}), ("challenge time", "/mcp/ redirects to /mcp")),
        (("POST", "/mcp/"), (404, "", {}), ("challenge time", "/mcp/ answers 404")),
        (("POST", "/mcp"), (200, {}, {}), ("challenge time", "answers 200")),
        (("POST", "/mcp"), (401, "", WRONG_CHALLENGE), ("challenge time", "challenges with Bearer")),
        (RESOURCE_DOCUMENT, (404, "", {}), ("metadata time", "answers 404")),
        (
            RESOURCE_DOCUMENT,
            (200, {"resource": "x"}, {}),
            ("metadata time", "is x, not"),
        ),
        (
            SERVER_DOCUMENT,
            (200, {"issuer": "x"}, {}),
            ("router", "names the issuer x"),
        ),
        (SERVER_DOCUMENT, (200, "<html>", {}), ("router", "is not JSON")),
        (SERVER_DOCUMENT, (200, "9" * 5000, {}), ("router", "is not JSON")),
        (SERVER_DOCUMENT, (200, [], {}), ("router", "no JSON object")),
        (("GET", "/jwks"), (200, {"keys": []}, {}), ("signing keys", "is not published")),
        (("GET", "/metrics"), (200, "", {}), ("internal endpoints", "it is reachable from outside")),
        (("GET", "/verify/time"), (401, "", {}), ("internal endpoints", "it is reachable from outside")),
        (("GET", "/internal/readyz"), (503, "", {}), ("service", "answers 503")),
        (("POST", "/applications/app/token"), (401, "", {}), ("identity provider", "does not know this client id")),
        (("POST", "/applications/app/token"), (502, "", {}), ("identity provider", "answers 502")),
        (("POST", "/backend"), (500, "", {}), ("bridge time", "answered HTTP 500")),
    ],
)
def test_each_trouble_is_named_with_what_to_do(
    outside: Outside,
    examine: Callable[[], dict[str, Finding]],
    asked: tuple[str, str],
    answer: tuple[int, Any, dict[str, str]],
    finding: tuple[str, str],
) -> None:
    status, body, headers = answer
    outside.change(*asked, status, body, **headers)
    check, text = finding
    found = examine()[check]
    assert found.status is Status.PROBLEM
    assert text in found.text
    assert found.advice


@pytest.mark.parametrize(("status", "text"), [(401, "a good token is refused"), (502, "the server answers 502")])
def test_an_authorized_request_that_fails_is_told_from_one_that_is_refused(
    outside: Outside, examine: Callable[[], dict[str, Finding]], status: int, text: str
) -> None:
    def answer(request: Request) -> Response:
        return Response(status=status) if request.authorization else outside.sound(request)

    outside.answers["POST", "/mcp"] = answer
    found = examine()
    assert found["challenge time"].status is Status.OK
    assert text in found["request time"].text


def test_what_cannot_be_reached_is_a_finding_and_no_trace(
    outside: Outside, examine: Callable[[], dict[str, Finding]]
) -> None:
    outside.close()
    found = examine()
    assert found["router"].text.startswith("cannot be reached")
    assert "systemctl status traefik" in (found["router"].advice or "")


def make_certificate(folder: Path, *, days: int) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=days, hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage_of_authority(signs_data=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(private + certificate.public_bytes(Encoding.PEM))
    return path


@pytest.mark.parametrize(("days", "expected"), [(30, "good for 30 days"), (5, "ends in 5 days")])
def test_a_certificate_that_ends_soon_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int, expected: str
) -> None:
    path = make_certificate(tmp_path, days=days)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(path))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(path)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            # The client may be gone, and say so by a reset, as soon as it has seen the certificate.
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection, context.wrap_socket(connection, server_side=True) as secured:
                    secured.recv(1)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            text = authorization_server.check_certificate("localhost", listener.getsockname()[1])
        except CheckFailed as failure:
            assert failure.status is Status.WARNING
            text = str(failure)
        thread.join()
    assert text == expected


def survey(**changed: Any) -> dict[str, Any]:
    report = {"tools": 2, "lock": "{}", "problem": None, "locked": True, "differences": [], "unmatched_rules": {}}
    return {"mcp-stdio-bridge": {**report, **changed}}


def test_tools_that_are_as_locked_and_rules_that_match_are_well(
    examine: Callable[[], dict[str, Finding]], outside: Outside
) -> None:
    outside.change("POST", "/survey", 200, survey())
    found = examine()
    assert (found["tools time"].status, found["rules time"].status) == (Status.OK, Status.OK)
    assert found["tools time"].text.endswith("2 tools, all as in the lock file")
    outside.change("POST", "/survey", 200, survey(locked=False))
    assert examine()["tools time"].text.endswith("2 tools, and no lock file")


def test_a_server_without_a_bridge_has_neither_lock_nor_rules(examine: Callable[[], dict[str, Finding]]) -> None:
    found = examine()
    assert (found["tools time"].status, found["tools time"].text) == (Status.OK, "has no bridge that could lock them")
    assert (found["rules time"].status, found["rules time"].text) == (
        Status.OK,
        "has no bridge that could hold users to any",
    )


def test_tools_that_are_hidden_are_a_warning(examine: Callable[[], dict[str, Finding]], outside: Outside) -> None:
    differences = [{"tool": f'"t{number}"', "reason": "new", "changes": []} for number in range(30)]
    missing = {"tool": '"a"', "reason": "missing", "changes": []}
    outside.change("POST", "/survey", 200, survey(differences=[missing, *differences]))
    found = examine()["tools time"]
    assert found.status is Status.WARNING
    assert 'hides 30 tools: 2 tools; differ from the lock file: "a" (missing), "t0" (new), ' in found.text
    assert found.text.endswith(" and 11 more")
    assert "mcp-gatewayctl tools diff time" in (found.advice or "")


def test_a_tool_that_the_server_no_longer_has_is_no_warning(
    examine: Callable[[], dict[str, Finding]], outside: Outside
) -> None:
    outside.change("POST", "/survey", 200, survey(differences=[{"tool": '"a"', "reason": "missing", "changes": []}]))
    found = examine()["tools time"]
    assert found.status is Status.OK
    assert found.text.endswith('differ from the lock file: "a" (missing)')


def test_rules_that_match_nothing_are_a_warning(examine: Callable[[], dict[str, Finding]], outside: Outside) -> None:
    unmatched = {"tools": ["create_*", "drop\x1b[2J"], "resources": ["file:///a"]}
    outside.change("POST", "/survey", 200, survey(unmatched_rules=unmatched))
    found = examine()["rules time"]
    assert found.status is Status.WARNING
    assert found.text.endswith(
        "match nothing that the server lists: tools create_*, tools drop\\x1b[2J, resources file:///a"
    )


def test_a_server_that_does_not_tell_what_it_offers_is_a_warning(
    examine: Callable[[], dict[str, Finding]], outside: Outside
) -> None:
    error = {"jsonrpc": "2.0", "id": None, "error": {"code": -32000, "message": "the MCP server exited"}}
    outside.change("POST", "/survey", 502, error)
    found = examine()
    for check in ("tools time", "rules time"):
        assert found[check].status is Status.WARNING
        assert found[check].text.endswith("does not tell what the server offers: the MCP server exited")
