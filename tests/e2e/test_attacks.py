"""Requests that must never reach a server, sent through the real router."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import requests

from auth_service.app.traefik.middlewares import ORIGIN_HEADERS
from tests.browser import Browser, Form
from tests.e2e.conftest import RunningStack
from tests.e2e.flow import MCP_HEADERS, Tokens, initialize, log_in, refresh, register
from tests.e2e.router import Backend, Router


@pytest.fixture(scope="module")
def tokens(stack: RunningStack) -> Tokens:
    return log_in(stack.issuer, stack.resource("time"))


def test_the_right_token_reaches_the_server(stack: RunningStack, tokens: Tokens) -> None:
    answer = initialize(stack.resource("time"), tokens.access_token)
    assert answer.status_code == 200
    assert answer.json()["result"]["serverInfo"]["name"] == "mcp-time"


def test_no_token_is_told_where_to_get_one(stack: RunningStack) -> None:
    answer = initialize(stack.resource("time"), None)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == (
        f'Bearer resource_metadata="{stack.issuer}/.well-known/oauth-protected-resource/time/mcp", scope="mcp"'
    )


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["", "/", "/deeper"])
def test_every_method_and_sub_path_needs_a_token(stack: RunningStack, method: str, path: str) -> None:
    answer = requests.request(method, stack.resource("time") + path, headers=MCP_HEADERS, timeout=60)
    assert answer.status_code == 401


@pytest.mark.parametrize("method", ["TRACE", "TRACK", "PROPFIND", "PUT", "trace"])
def test_a_method_that_would_echo_what_the_gateway_adds_reaches_no_server(stack: RunningStack, method: str) -> None:
    token = log_in(stack.issuer, stack.resource("echo")).access_token
    headers = {"Authorization": f"Bearer {token}", "X-Forwarded-Method": "GET", "X-HTTP-Method-Override": "GET"}
    passed = requests.get(stack.resource("echo"), headers=headers, timeout=60)
    assert passed.status_code == 200
    assert "x-gateway-identity" in passed.text.lower()
    # A token is refused like none: the method is not for any server.
    for sent in (headers, {}):
        answer = _request_as_written(method, stack.resource("echo"), sent)
        assert answer.status_code == 405
        assert answer.headers["Allow"] == "DELETE, GET, HEAD, OPTIONS, POST"
        assert "x-gateway-identity" not in answer.text.lower()


def _request_as_written(method: str, url: str, headers: dict[str, str]) -> requests.Response:
    """Send a method in its own case, which `requests` would change."""
    with requests.Session() as session:
        prepared = session.prepare_request(requests.Request("GET", url, headers=headers))
        prepared.method = method
        return session.send(prepared, timeout=60)


def test_a_preflight_is_answered_without_a_token(stack: RunningStack) -> None:
    headers = {"Origin": "https://claude.ai", "Access-Control-Request-Method": "POST"}
    answer = requests.options(stack.resource("time"), headers=headers, timeout=60)
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize("token", ["x", "eyJhbGciOiJub25lIn0.e30.", "a.b.c"])
def test_a_wrong_token_is_invalid(stack: RunningStack, token: str) -> None:
    answer = initialize(stack.resource("time"), token)
    assert answer.status_code == 401
    assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]


def test_nothing_that_a_browser_keeps_for_the_whole_origin_comes_back_from_a_server(stack: RunningStack) -> None:
    token = log_in(stack.issuer, stack.resource("echo")).access_token
    headers = dict.fromkeys((f"Echo-{name}" for name in ORIGIN_HEADERS), "x=1; max-age=1000")
    headers |= {"Authorization": f"Bearer {token}", "Echo-X-Own": "1"}
    answer = requests.get(stack.resource("echo"), headers=headers, timeout=60)
    assert answer.status_code == 200
    assert answer.headers["X-Own"] == "1"
    assert not set(map(str.lower, ORIGIN_HEADERS)) & set(map(str.lower, answer.headers))


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
@pytest.mark.parametrize("removed", [True, False])
def test_with_tls_a_browser_keeps_what_the_router_says_and_nothing_of_a_server(tmp_path: Path, removed: bool) -> None:
    def change(routes: dict[str, Any]) -> None:
        if not removed:
            del routes["middlewares"]["mcp.headers"]["headers"]["customResponseHeaders"]

    forged = "x=1; max-age=7"
    backend = Backend({}, name="time", headers=lambda: {**dict.fromkeys(ORIGIN_HEADERS, forged), "X-Own": "1"})
    router = Router(tmp_path, {"backends": [f"{backend.url}/mcp"]}, tls=True, change=change)
    try:
        router.wait_until(lambda: router.get("/mcp").text == "time")
        answer = router.get("/mcp")
        kept = {name: answer.headers[name] for name in ORIGIN_HEADERS if name in answer.headers}
        if removed:
            assert kept == {"Strict-Transport-Security": "max-age=31536000"}
        else:
            assert {"Set-Cookie", "Clear-Site-Data", "Alt-Svc"} <= set(kept), "the backend sent nothing to be removed"
        assert answer.headers["X-Own"] == "1"
    finally:
        router.stop()
        backend.stop()


def test_a_token_for_another_server_is_invalid(stack: RunningStack, tokens: Tokens) -> None:
    assert initialize(stack.resource("fetch"), tokens.access_token).status_code == 401


def test_a_tampered_token_is_invalid(stack: RunningStack, tokens: Tokens) -> None:
    head, payload, signature = tokens.access_token.split(".")
    flipped = signature[:10] + ("A" if signature[10] != "A" else "B") + signature[11:]
    assert initialize(stack.resource("time"), f"{head}.{payload}.{flipped}").status_code == 401


@pytest.mark.parametrize("name", ["X-Gateway-Identity", "X_Gateway_Identity", "X.Gateway.Identity", "X-User-Id"])
def test_a_forged_identity_without_a_token_is_no_identity(stack: RunningStack, name: str) -> None:
    assert initialize(stack.resource("time"), None, {name: "github:1"}).status_code == 401


@pytest.mark.parametrize("name", ["X-Gateway-Identity", "X_Gateway_Identity", "X.Gateway.Identity"])
def test_a_forged_identity_beside_a_token_is_replaced(stack: RunningStack, tokens: Tokens, name: str) -> None:
    # The bridge believes the signed assertion only: had the forged one reached it, this would be 403.
    assert initialize(stack.resource("time"), tokens.access_token, {name: "forged"}).status_code == 200


@pytest.mark.parametrize("path", ["/verify/time", "/routes", "/healthz", "/readyz", "/metrics", "/revocations"])
def test_an_internal_path_has_no_route(stack: RunningStack, path: str) -> None:
    assert requests.get(stack.issuer + path, timeout=60).status_code == 404


def get_raw(stack: RunningStack, path: str, authorization: str = "") -> int:
    """Return the status of a GET of that path, as it is written."""
    with socket.create_connection(("127.0.0.1", stack.port), timeout=60) as connection:
        connection.sendall(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{authorization}"
            "Accept: text/event-stream\r\nConnection: close\r\n\r\n".encode()
        )
        return int(connection.makefile("rb").readline().split()[1])


@pytest.mark.parametrize(
    "path", ["/time%2fmcp", "/time/mcp/..%2f..%2fhealthz", "/time/mcp/../../fetch/mcp", "/time/mcp;x"]
)
def test_an_ambiguous_path_reaches_no_server(stack: RunningStack, tokens: Tokens, path: str) -> None:
    assert initialize(stack.resource("time"), tokens.access_token).status_code == 200, "the grant has a session"
    assert get_raw(stack, path, f"Authorization: Bearer {tokens.access_token}\r\n") in {400, 401, 404}


@pytest.mark.parametrize("path", ["//time/mcp", "/time//mcp", "/./time/mcp"])
def test_a_path_that_traefik_cleans_is_verified_as_it_is_routed(stack: RunningStack, path: str) -> None:
    assert get_raw(stack, path) == 401


def test_two_authorization_headers_are_refused(stack: RunningStack, tokens: Tokens) -> None:
    with socket.create_connection(("127.0.0.1", stack.port), timeout=60) as connection:
        bearer = f"Authorization: Bearer {tokens.access_token}\r\n"
        connection.sendall(
            f"GET /time/mcp HTTP/1.1\r\nHost: localhost\r\n{bearer * 2}Connection: close\r\n\r\n".encode()
        )
        assert int(connection.makefile("rb").readline().split()[1]) in {400, 401}


def test_a_user_on_no_allow_list_gets_no_code(stack: RunningStack) -> None:
    with pytest.raises(AssertionError, match="stranger may not use this server"):
        log_in(stack.issuer, stack.resource("time"), browser=Browser(login="stranger"))


def test_a_user_who_declines_gives_no_code(stack: RunningStack) -> None:
    with pytest.raises(KeyError, match="code"):
        log_in(stack.issuer, stack.resource("time"), browser=Browser(decision="deny"))


def test_a_user_ends_access_on_the_account_page_and_the_token_is_refused_at_once(stack: RunningStack) -> None:
    browser = Browser()
    client_id = register(stack.issuer, client_name="Ended on the page")
    tokens = log_in(stack.issuer, stack.resource("time"), browser=browser, client_id=client_id)
    assert initialize(stack.resource("time"), tokens.access_token).status_code == 200
    page = browser.session.get(f"{stack.issuer}/account", timeout=60)
    form = Form(next(card for card in page.text.split("<li>") if "Ended on the page" in card))
    ended = browser.session.post(form.action or "", data=form.fields | {"action": "end"}, timeout=60)
    assert "Access ended" in ended.text
    assert initialize(stack.resource("time"), tokens.access_token).status_code == 401


def test_a_refresh_rotates_and_a_revocation_ends_everything_at_once(stack: RunningStack) -> None:
    tokens = log_in(stack.issuer, stack.resource("time"))
    answer = refresh(stack.issuer, tokens)
    assert answer.status_code == 200
    renewed = Tokens(tokens.client_id, answer.json()["access_token"], answer.json()["refresh_token"])
    assert renewed.refresh_token != tokens.refresh_token
    opened = initialize(stack.resource("time"), renewed.access_token)
    assert opened.status_code == 200
    session = {"Mcp-Session-Id": opened.headers["Mcp-Session-Id"], "Authorization": f"Bearer {renewed.access_token}"}
    with requests.get(stack.resource("time"), headers={**MCP_HEADERS, **session}, stream=True, timeout=60) as stream:
        assert stream.status_code == 200
        form = {"token": renewed.refresh_token, "client_id": renewed.client_id}
        assert requests.post(f"{stack.issuer}/revoke", data=form, timeout=60).status_code == 200
        for _ in stream.iter_content(1024):
            pass  # the stream ends, or the test never does
    assert initialize(stack.resource("time"), renewed.access_token).status_code == 401
    assert refresh(stack.issuer, renewed).json()["error"] == "invalid_grant"


def test_another_users_session_is_not_found(stack: RunningStack, tokens: Tokens) -> None:
    session = initialize(stack.resource("time"), tokens.access_token).headers["Mcp-Session-Id"]
    other = log_in(stack.issuer, stack.resource("time"), browser=Browser(login="hubot"))
    ping = {"jsonrpc": "2.0", "id": 2, "method": "ping"}
    for token, status in ((other.access_token, 404), (tokens.access_token, 200)):
        headers = {**MCP_HEADERS, "Mcp-Session-Id": session, "Authorization": f"Bearer {token}"}
        assert requests.post(stack.resource("time"), json=ping, headers=headers, timeout=60).status_code == status
