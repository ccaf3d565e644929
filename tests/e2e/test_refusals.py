"""Refusals on public paths, by every part that makes them: the endpoint's form, CORS headers, and what to do."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.e2e.conftest import RunningStack
from tests.e2e.flow import MCP_HEADERS, SourceAddress
from tests.e2e.router import UNREACHABLE, Router

JSON = {"Accept": "application/json"}
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
PREFLIGHT = {"Origin": "https://client.example", "Access-Control-Request-Method": "POST"}


def assert_oauth(answer: requests.Response, status: int, error: str, text: str) -> None:
    """Check for an error of RFC 6749 §5.2 that a web page may read."""
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/json"), answer.text
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    document = answer.json()
    assert document["error"] == error
    assert text in document["error_description"]


def assert_page(answer: requests.Response, status: int, text: str) -> None:
    """Check for a page that cannot be framed."""
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "text/html; charset=utf-8"), answer.text
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert text in answer.text


def assert_json_rpc(answer: requests.Response, status: int, text: str) -> None:
    """Check for a JSON-RPC error without an id that a web page may read."""
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/json"), answer.text
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    document = answer.json()
    assert (document["jsonrpc"], document["id"]) == ("2.0", None)
    assert document["error"]["message"].startswith(f"{status} ")
    assert text in document["error"]["message"]


@pytest.fixture
def client(stack: RunningStack, request: pytest.FixtureRequest) -> Iterator[requests.Session]:
    """A client with an address that no other test uses up."""
    number = sum(request.node.name.encode()) % 200
    adapter = SourceAddress(f"127.0.9.{number}")
    with requests.Session() as session:
        session.mount("http://", adapter)
        yield session


def until_refused(client: requests.Session, method: str, url: str, **options: Any) -> requests.Response:
    """Ask until the router, or the service, has had enough."""
    for _ in range(2000):
        answer = client.request(method, url, timeout=60, **options)
        if answer.status_code == 429:
            return answer
    raise AssertionError("it was never refused")


def test_the_routers_limit_at_an_endpoint_of_programs(stack: RunningStack, client: requests.Session) -> None:
    answer = until_refused(client, "GET", f"{stack.issuer}/register/x")
    assert_oauth(answer, 429, "slow_down", "too many requests: try again in 1 second")
    assert answer.headers["Retry-After"] == "1"
    preflight = client.options(f"{stack.issuer}/register/x", headers=PREFLIGHT, timeout=60)
    assert (preflight.status_code, preflight.headers["Access-Control-Allow-Origin"]) == (200, "*")
    assert "PUT" in preflight.headers["Access-Control-Allow-Methods"]


def test_the_routers_limit_at_an_endpoint_of_browsers(stack: RunningStack, client: requests.Session) -> None:
    answer = until_refused(client, "GET", f"{stack.issuer}/account", headers=BROWSER)
    assert_page(answer, 429, "Too many requests came from here")
    assert answer.headers["Retry-After"] == "1"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_the_routers_limit_where_nothing_is(stack: RunningStack, client: requests.Session, host: str) -> None:
    url = f"http://{host}:{stack.port}/nothing"
    assert_page(until_refused(client, "GET", url, headers=BROWSER), 429, "Too many requests came from here")
    answer = until_refused(client, "GET", url, headers=JSON)
    assert_oauth(answer, 429, "slow_down", "too many requests: try again in 1 second")


def test_the_routers_limit_at_a_server_by_another_name(stack: RunningStack, client: requests.Session) -> None:
    answer = until_refused(client, "POST", f"http://127.0.0.1:{stack.port}/time/mcp", headers=MCP_HEADERS)
    assert_json_rpc(answer, 429, "too many requests: try again in 1 second")


def test_the_services_own_limit_says_its_own_time(stack: RunningStack, client: requests.Session) -> None:
    form = {"grant_type": "refresh_token", "refresh_token": "x", "client_id": "mcp_unknown"}
    answer = until_refused(client, "POST", f"{stack.issuer}/token", data=form)
    seconds = int(answer.headers["Retry-After"])
    assert seconds > 1  # a window of a minute, of which the test has not used all
    assert_oauth(answer, 429, "slow_down", f"try again in {seconds} seconds")


@pytest.mark.parametrize("size", [70_000, 5_000_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large(stack: RunningStack, client: requests.Session, size: int, chunked: bool) -> None:
    headers = {"Content-Type": "application/json"}
    for _ in range(5):
        body = (b"x" * 10_000 for _ in range(size // 10_000)) if chunked else b"x" * size
        answer = client.post(f"{stack.issuer}/register", data=body, headers=headers, timeout=60)
        assert_oauth(answer, 413, "invalid_request", "the body is larger than 65536 bytes")
    body = b"x" * size
    assert_page(client.post(f"{stack.issuer}/consent", data=body, headers=BROWSER, timeout=60), 413, "too large")


@pytest.mark.parametrize("path", ["/nothing", "/.well-known/nothing", "/register/x/y", "/refusals/404", "/healthz"])
def test_a_path_that_leads_nowhere(stack: RunningStack, client: requests.Session, path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        answer = client.request(method, f"{stack.issuer}{path}", headers=JSON, timeout=60)
        assert_oauth(answer, 404, "invalid_request", f"{stack.issuer}/.well-known/oauth-authorization-server")
    assert_page(client.get(f"{stack.issuer}{path}", headers=BROWSER, timeout=60), 404, "There is no such page here")
    for headers in (PREFLIGHT, {}):
        answer = client.options(f"{stack.issuer}{path}", headers=headers, timeout=60)
        assert answer.status_code in {200, 204}
        assert answer.headers["Access-Control-Allow-Origin"] == "*"


def test_a_query_does_not_change_the_answer_at_an_unknown_path(stack: RunningStack, client: requests.Session) -> None:
    for query in ("for=mcp", "for=authorization", "for=model_dump", "for=x&for=y", "x=%ff"):
        assert client.get(f"{stack.issuer}/nothing?{query}", headers=JSON, timeout=60).status_code == 404


@pytest.mark.parametrize(
    ("length", "status"),
    [(5_000, 400), (40_000, 414), (900_000, 414)],
)
def test_a_long_link_gets_a_page(stack: RunningStack, client: requests.Session, length: int, status: int) -> None:
    answer = client.get(f"{stack.issuer}/authorize?x={'a' * length}", headers=BROWSER, timeout=60)
    assert_page(answer, status, "too long" if status == 414 else "client_id is missing")


@pytest.mark.parametrize("length", [40_000, 100_000, 900_000])
def test_a_long_url_at_an_endpoint_of_programs(stack: RunningStack, client: requests.Session, length: int) -> None:
    answer = client.post(f"{stack.issuer}/token?x={'a' * length}", timeout=60)
    assert_oauth(answer, 414, "invalid_request", "send less in")
    answer = client.post(f"{stack.issuer}/token", headers={"X-Long": "a" * length}, timeout=60)
    if length > 65_536:
        assert_oauth(answer, 431, "invalid_request", "send less in them")
    else:
        assert_oauth(answer, 400, "invalid_request", "grant_type is missing")


@pytest.mark.parametrize("length", [40_000, 100_000, 900_000])
def test_a_url_or_token_that_is_too_long_at_a_server(
    stack: RunningStack, client: requests.Session, length: int
) -> None:
    url = stack.resource("time")
    assert_json_rpc(client.get(f"{url}?x={'a' * length}", headers=MCP_HEADERS, timeout=60), 414, "send less in it")
    headers = {**MCP_HEADERS, "Authorization": f"Bearer {'a' * length}"}
    assert_json_rpc(client.get(url, headers=headers, timeout=60), 400, "no well-formed bearer token")


@pytest.mark.parametrize("path", ["/authorize", "/token", "/account"])
def test_a_query_that_is_not_ascii(stack: RunningStack, path: str) -> None:
    with socket.create_connection(("127.0.0.1", stack.port), 10) as connection:
        request = f"GET {path}?x=\u00e9 HTTP/1.1\r\nHost: localhost:{stack.port}\r\nConnection: close\r\n\r\n"
        connection.sendall(request.encode())
        head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
    assert head.split()[1] == b"400"
    assert b"Access-Control-Allow-Origin: *" in head
    assert json.loads(body) == {
        "error": "invalid_request",
        "error_description": "the URL has characters that are not ASCII: percent-encode them as UTF-8",
    }


def test_a_method_that_an_endpoint_does_not_have(stack: RunningStack, client: requests.Session) -> None:
    answer = client.get(f"{stack.issuer}/token", headers=JSON, timeout=60)
    assert_oauth(answer, 405, "invalid_request", "GET is not possible here: use POST")
    assert answer.headers["Allow"] == "OPTIONS, POST"
    assert_page(client.get(f"{stack.issuer}/consent", headers=BROWSER, timeout=60), 405, "use POST")


def test_no_token_and_a_wrong_one(stack: RunningStack, client: requests.Session) -> None:
    for headers in ({}, {"Authorization": "Bearer x"}):
        answer = client.post(stack.resource("time"), headers={**MCP_HEADERS, **headers}, json={}, timeout=60)
        assert_json_rpc(answer, 401, "log in")


def test_a_server_that_does_not_answer(tmp_path: Path) -> None:
    router = Router(tmp_path, {"backends": ["http://127.0.0.1:1/mcp"]})
    try:
        router.wait_until(lambda: router.get("/mcp").status_code == 502)
        answer = router.get("/mcp")
        assert (answer.text, answer.headers["Access-Control-Allow-Origin"]) == (UNREACHABLE, "*")
    finally:
        router.stop()
