"""Requests that the router and a server may read differently."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
from dataclasses import dataclass
from typing import Any

import jwt
import pytest

from tests.e2e.conftest import RunningStack
from tests.e2e.flow import Tokens, log_in

IDENTITY = {"x-gateway-identity", "x-user-id", "x-user-name", "x-client-id", "x-scopes"}
INTERNAL = ("/verify/time", "/verify/echo", "/routes", "/healthz", "/readyz", "/metrics", "/revocations")


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes

    @property
    def seen(self) -> dict[str, Any]:
        """What reached the echo server."""
        assert self.status == 200, self
        document: dict[str, Any] = json.loads(self.body)
        return document

    def header(self, name: str) -> list[str]:
        """Every value of a header that reached the echo server, by any name that a program may take for it."""
        alias = name.lower().replace("_", "-").replace(".", "-")
        return [
            value for key, value in self.seen["headers"] if key.lower().replace("_", "-").replace(".", "-") == alias
        ]


def send(stack: RunningStack, request: bytes) -> Answer:
    """Send these bytes, and read one response or the end."""
    with socket.create_connection(("127.0.0.1", stack.port), timeout=60) as connection:
        connection.sendall(request)
        with connection.makefile("rb") as stream:
            line = stream.readline()
            if not line:
                return Answer(0, b"")
            length = 0
            while (header := stream.readline().strip()) != b"":
                name, _, value = header.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            return Answer(int(line.split()[1]), stream.read(length))


def get(stack: RunningStack, target: str, *headers: str, host: str = "localhost") -> Answer:
    """Send a GET request with exactly these headers."""
    lines = [f"GET {target} HTTP/1.1", f"Host: {host}", *headers]
    return send(stack, ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))


@pytest.fixture(scope="module")
def tokens(stack: RunningStack) -> Tokens:
    return log_in(stack.issuer, stack.resource("echo"))


@pytest.fixture(scope="module")
def bearer(tokens: Tokens) -> str:
    return f"Authorization: Bearer {tokens.access_token}"


def identity_of(stack: RunningStack, tokens: Tokens) -> dict[str, str]:
    claims = jwt.decode(tokens.access_token, options={"verify_signature": False})
    return {
        "x-user-id": claims["sub"],
        "x-user-name": claims["name"],
        "x-client-id": tokens.client_id,
        "x-scopes": claims["scope"],
    }


def assert_true_identity(answer: Answer, truth: dict[str, str]) -> None:
    assert {name: answer.header(name) for name in truth} == {name: [value] for name, value in truth.items()}
    (assertion,) = answer.header("x-gateway-identity")
    assert "forged" not in assertion
    assert answer.header("authorization") == []


def test_the_server_learns_who_calls_and_never_their_token(stack: RunningStack, tokens: Tokens, bearer: str) -> None:
    answer = get(stack, "/echo/mcp", bearer)
    assert_true_identity(answer, identity_of(stack, tokens))
    assert tokens.access_token not in answer.body.decode()


@pytest.mark.parametrize("name", sorted(IDENTITY))
@pytest.mark.parametrize("form", ["{}", "{}\r\n{}", "{}: {}"], ids=["once", "twice", "nested"])
def test_no_spelling_of_an_identity_header_gets_past(
    stack: RunningStack, tokens: Tokens, bearer: str, name: str, form: str
) -> None:
    for separator in "-_.":
        lines = form.replace("{}", f"{name.replace('-', separator)}: forged").split("\r\n")
        assert_true_identity(get(stack, "/echo/mcp", *lines, bearer), identity_of(stack, tokens))


@pytest.mark.parametrize("spelling", ["X-USER-ID", "x-UsEr-Id", "X-User_Id", "X_User-Id", "X.User_Id"])
def test_neither_case_nor_mixed_separators_help(
    stack: RunningStack, tokens: Tokens, bearer: str, spelling: str
) -> None:
    answer = get(stack, "/echo/mcp", f"{spelling}: github:1", bearer, f"{spelling}: github:2")
    assert_true_identity(answer, identity_of(stack, tokens))


@pytest.mark.parametrize(
    "line", ["X-User-Id : github:1", " X-User-Id: github:1", "X-User-Id\x00: github:1", "X-User-Id\t: github:1"]
)
def test_a_header_that_is_none_by_its_syntax_is_refused_or_dropped(
    stack: RunningStack, tokens: Tokens, bearer: str, line: str
) -> None:
    answer = get(stack, "/echo/mcp", bearer, line)
    if answer.status != 400:
        assert_true_identity(answer, identity_of(stack, tokens))


@pytest.mark.parametrize(
    "name", [*sorted(IDENTITY), "Authorization", "X-Forwarded-For", "X-Forwarded-Method", "X-Forwarded-Uri"]
)
def test_a_header_named_in_connection_is_not_missing_behind(
    stack: RunningStack, tokens: Tokens, bearer: str, name: str
) -> None:
    answer = get(stack, "/echo/mcp", bearer, f"Connection: close, {name}", f"Connection: {name}")
    if answer.status == 200:
        assert_true_identity(answer, identity_of(stack, tokens))
        assert answer.header("x-forwarded-for") == ["127.0.0.1"]
    else:
        assert answer.status in {400, 401}


@pytest.mark.parametrize("name", ["Uri", "Method", "Proto", "Host", "For", "Port", "Prefix", "Server"])
def test_forwarding_headers_of_the_client_decide_nothing(
    stack: RunningStack, tokens: Tokens, bearer: str, name: str
) -> None:
    lie = f"X-Forwarded-{name}: /echo/mcp"
    assert get(stack, "/echo/mcp", lie).status == 401
    assert get(stack, "/echo/mcp?access_token=x", lie, bearer).status == 400
    assert get(stack, "/time/mcp", lie, bearer).status == 401
    assert_true_identity(get(stack, "/echo/mcp", lie, bearer), identity_of(stack, tokens))


@pytest.mark.parametrize(
    "name",
    ["X-Original-Uri", "X-Rewrite-Url", "X-Original-Url", "X-HTTP-Method-Override", "Script_Name", "SCRIPT-NAME"],
)
@pytest.mark.parametrize("value", ["/verify/time", "/routes", "/jwks"])
def test_headers_that_change_paths_at_other_servers_change_nothing(stack: RunningStack, name: str, value: str) -> None:
    assert get(stack, "/echo/mcp", f"{name}: {value}").status == 401
    assert b'"keys"' in get(stack, "/jwks", f"{name}: {value}").body


@pytest.mark.parametrize("path", INTERNAL)
@pytest.mark.parametrize(
    "trick",
    [
        "{}",
        "/{}",
        "{}/",
        "{}?x=/jwks",
        "/.{}",
        "/jwks/..{}",
        "/jwks;x/..{}",
        "/jwks%2f..{}",
        "/jwks/%2e%2e{}",
        "/%2e{}",
        "/echo/mcp/../..{}",
        "/style.css/..{}",
        "/register/..{}",
        "/register/%2e%2e{}",
        "/register/..%2f{}",
        "http://localhost{}",
        "http://127.0.0.1{}",
        "http://localhost:9000{}",
        "//localhost{}",
        "/jwks#{}",
        "/jwks\\..\\{}",
    ],
)
def test_no_target_leads_to_what_is_internal(stack: RunningStack, bearer: str, path: str, trick: str) -> None:
    answer = get(stack, trick.replace("{}", path), bearer)
    assert answer.status in {0, 301, 400, 401, 403, 404, 421}, answer
    assert b"redis" not in answer.body
    assert b"routers" not in answer.body


@pytest.mark.parametrize("host", ["127.0.0.1", "auth", "localhost.", "LOCALHOST", "localhost:9000", "evil.example", ""])
@pytest.mark.parametrize("path", INTERNAL)
def test_no_host_leads_to_what_is_internal(stack: RunningStack, path: str, host: str) -> None:
    assert get(stack, path, host=host).status in ({421} if host == "127.0.0.1" else {400, 404})


@pytest.mark.parametrize(
    "target", ["http://localhost/echo/mcp", "http://evil.example/echo/mcp", "http://localhost:1/echo/mcp"]
)
def test_a_target_in_absolute_form_needs_a_token_too(stack: RunningStack, target: str) -> None:
    assert get(stack, target).status in {400, 401, 404}


@pytest.mark.parametrize(
    "path",
    ["/echo%2fmcp", "/echo/mcp/%2e%2e/x", "/echo/mcp/..%5cx", "/echo/mcp/%00", "/echo/mcp/..;/x", "/echo/mcp/%252e"],
)
def test_an_ambiguous_path_reaches_no_server(stack: RunningStack, bearer: str, path: str) -> None:
    assert get(stack, path, bearer).status in {400, 404}


@pytest.mark.parametrize(
    "query",
    ["access_token={}", "a=b&access_token={}", "access%5Ftoken={}", "access_token={}&access_token=", "ACCESS_TOKEN={}"],
)
def test_a_token_in_the_query_is_no_token(stack: RunningStack, tokens: Tokens, bearer: str, query: str) -> None:
    target = f"/echo/mcp?{query.replace('{}', tokens.access_token)}"
    assert get(stack, target).status in {400, 401}
    if query.startswith("ACCESS"):  # a parameter of another name
        return
    assert get(stack, target, bearer).status == 400


@pytest.mark.parametrize(
    "second", ["Authorization: Bearer x", "authorization: Basic eDp5", "AUTHORIZATION:", "Authorization: Bearer {}"]
)
def test_two_authorization_headers_are_refused(stack: RunningStack, tokens: Tokens, bearer: str, second: str) -> None:
    second = second.replace("{}", tokens.access_token)
    assert get(stack, "/echo/mcp", bearer, second).status in {400, 401}
    assert get(stack, "/echo/mcp", second, bearer).status in {400, 401}


@pytest.mark.parametrize("size", [5_000, 9_000, 60_000, 900_000, 2_000_000])
def test_an_oversized_token_is_refused(stack: RunningStack, size: int) -> None:
    assert get(stack, "/echo/mcp", f"Authorization: Bearer {'a' * size}").status in {0, 400, 401, 431, 500}


def test_oversized_headers_and_targets_pass_no_one_without_a_token(stack: RunningStack) -> None:
    assert get(stack, "/echo/mcp", f"X-Padding: {'a' * 900_000}").status in {400, 401, 431, 500}
    assert get(stack, f"/echo/mcp?{'a' * 60_000}").status in {400, 401, 414, 431, 500}
    assert get(stack, "/echo/mcp", *[f"X-Padding-{number}: x" for number in range(500)]).status in {400, 401, 431, 500}


@pytest.mark.parametrize(
    "framing",
    [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: xchunked",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: +5",
    ],
)
def test_a_request_of_two_lengths_smuggles_no_second_one(stack: RunningStack, framing: str) -> None:
    body = "0\r\n\r\nGET /verify/time HTTP/1.1\r\nHost: localhost\r\n\r\n"
    request = f"POST /token HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n{body}"
    with socket.create_connection(("127.0.0.1", stack.port), timeout=60) as connection:
        connection.sendall(request.encode())
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as stream:
            answer = stream.read()
    assert b" 200 " not in answer
    assert b"resource_metadata" not in answer  # what /verify would say


@pytest.mark.parametrize("path", ["/jwks", "/authorize", "/token", "/echo/mcp", "/time/mcp", *INTERNAL])
@pytest.mark.parametrize(
    "upgrade",
    [
        ("websocket", f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {base64.b64encode(b'k' * 16).decode()}"),
        ("h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"),
        ("TLS/1.0", "X-Nothing: x"),
    ],
    ids=lambda upgrade: upgrade[0],
)
def test_no_upgrade_opens_a_tunnel_past_the_router(stack: RunningStack, path: str, upgrade: tuple[str, str]) -> None:
    protocol, line = upgrade
    connection = "Upgrade, HTTP2-Settings" if protocol == "h2c" else "Upgrade"
    answer = get(stack, path, f"Connection: {connection}", f"Upgrade: {protocol}", line)
    assert answer.status != 101
    if path in INTERNAL:
        assert answer.status == 404
    if path.endswith("/mcp"):
        assert answer.status == 401


@pytest.mark.parametrize("name", ["Connection", "connection"])
@pytest.mark.parametrize("protocol", ["websocket", "WebSocket", "h2c", "TLS/1.0"])
def test_a_verified_request_is_not_upgraded_to_what_would_outlive_its_token(
    stack: RunningStack, tokens: Tokens, bearer: str, name: str, protocol: str
) -> None:
    key = f"Sec-WebSocket-Key: {base64.b64encode(b'k' * 16).decode()}"
    answer = get(
        stack, "/echo/mcp", bearer, f"{name}: Upgrade", f"Upgrade: {protocol}", "Sec-WebSocket-Version: 13", key
    )
    assert answer.status == 200
    assert answer.header("upgrade") == []
    assert_true_identity(answer, identity_of(stack, tokens))


@pytest.mark.parametrize(
    "lines",
    [
        ("Cookie: __Host-session=secret",),
        ("cookie: a=secret", "COOKIE: b=secret"),
        ("Cookie: a=secret; b=secret", "Connection: Cookie"),
        ("Cookie: a=secret", "Cookie2: $Version=1"),
    ],
)
def test_no_cookie_reaches_a_server(stack: RunningStack, bearer: str, lines: tuple[str, ...]) -> None:
    answer = get(stack, "/echo/mcp", *lines, bearer)
    assert answer.header("cookie") == []
    assert b"secret" not in answer.body


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_http_2_is_no_way_around(stack: RunningStack, tokens: Tokens, bearer: str) -> None:
    def ask(path: str, *headers: str) -> Answer:
        done = subprocess.run(
            [
                *("curl", "--silent", "--http2-prior-knowledge", "--path-as-is", "--write-out", "\\n%{http_code}"),
                *(each for header in headers for each in ("--header", header)),
                f"http://127.0.0.1:{stack.port}{path}",
                *("--header", "Host: localhost"),
            ],
            capture_output=True,
            timeout=60,
            check=False,
        )
        body, _, status = done.stdout.rpartition(b"\n")
        return Answer(int(status), body)

    assert ask("/echo/mcp").status in {0, 401}
    for path in INTERNAL:
        assert ask(path, bearer).status in {0, 404}
        assert ask(f"/jwks/..{path}", bearer).status in {0, 301, 400, 404}
    answer = ask("/echo/mcp", bearer, "cookie: a=secret", "cookie: b=secret")
    if answer.status == 200:
        assert b"secret" not in answer.body
    answer = ask("/echo/mcp", bearer, "X-User-Id: forged", "x_user_id: forged", "Connection: X-User-Id")
    if answer.status == 200:
        assert_true_identity(answer, identity_of(stack, tokens))
