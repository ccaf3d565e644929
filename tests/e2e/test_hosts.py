"""Which requests the real router passes on at each host: the issuer's, the servers', and other names of loopback."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
import requests

from tests.e2e.router import NOWHERE, Router

from .conftest import RunningStack

BURST = 4
SLOWLY = {"average": 1, "period": 3600, "burst": BURST}
PLENTY = {"average": 1000, "period": 1, "burst": 1000}


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    """One server on a host of its own, and one whose URL is what clients take for the token endpoint."""
    running = Router(
        tmp_path_factory.mktemp("hosts"),
        {},
        settings={
            "issuer": "https://auth.example.com",
            "limits": {"rates": {"registration": SLOWLY, **dict.fromkeys(("authorization", "token"), PLENTY)}},
            "resources": {
                "time": {"url": "https://time.example.com/mcp", "backends": ["http://127.0.0.1:1/mcp"]},
                "odd": {"url": "https://odd.example.com/token", "backends": ["http://127.0.0.1:1/mcp"]},
            },
        },
    )
    try:
        running.wait_until(lambda: ask(running, "auth.example.com", "/jwks").status_code == 200)
        yield running
    finally:
        running.stop()


def ask(router: Router, host: str, path: str, *, address: str = "127.0.0.1") -> requests.Response:
    return router.get(path, {"Host": host}, address=address)


@pytest.mark.parametrize("host", ["auth.example.com", "time.example.com", "time.example.com:8443"])
@pytest.mark.parametrize("path", ["/authorize", "/token", "/revoke"])
def test_the_authorization_server_answers_at_every_host(router: Router, host: str, path: str) -> None:
    answer = ask(router, host, path)
    assert (answer.status_code, answer.text) == (200, "auth")


@pytest.mark.parametrize(
    "path",
    [
        "/consent",
        "/callback",
        "/provide",
        "/account",
        "/introspect",
        "/jwks",
        "/register/mcp_x",
        "/token/",
        "/verify/time",
    ],
)
def test_all_other_endpoints_are_at_the_issuer_only(router: Router, path: str) -> None:
    assert ask(router, "time.example.com", path).text == NOWHERE


def test_a_server_keeps_its_own_path(router: Router) -> None:
    assert ask(router, "odd.example.com", "/token").status_code == 502  # its backend is not there
    assert ask(router, "odd.example.com", "/revoke").text == "auth"


def test_all_hosts_share_one_rate_limit(router: Router) -> None:
    hosts = ("auth.example.com", "time.example.com", "odd.example.com", "time.example.com")
    assert [ask(router, host, "/register", address="127.0.0.9").status_code for host in hosts] == [200] * BURST
    for host in hosts:
        assert ask(router, host, "/register", address="127.0.0.9").status_code == 429
    assert ask(router, "time.example.com", "/register", address="127.0.0.10").status_code == 200


@pytest.mark.parametrize(("name", "address"), [("127.0.0.1", "127.0.0.1"), ("[::1]", "::1")])
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/token"), ("GET", "/account"), ("GET", "/routes"), ("GET", "/time"), ("GET", "/time/mcpx")],
)
def test_the_local_stack_says_by_which_name_it_is_to_be_reached(
    stack: RunningStack, name: str, address: str, method: str, path: str
) -> None:
    try:
        socket.create_connection((address, stack.port)).close()
    except OSError:
        pytest.skip(f"the stack does not listen on {address}")
    answer = requests.request(method, f"http://{name}:{stack.port}{path}", timeout=60)
    assert answer.status_code == 421
    assert f"{stack.issuer}: write localhost in the URL" in answer.json()["error_description"]
    assert answer.headers["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize("path", ["/time/mcp", "/time/mcp/", "/echo/mcp"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_the_local_stack_says_so_to_a_servers_client_too(stack: RunningStack, method: str, path: str) -> None:
    headers = {"Accept": "application/json, text/event-stream", "Authorization": "Bearer x"}
    answer = requests.request(method, f"http://127.0.0.1:{stack.port}{path}", headers=headers, timeout=60)
    assert answer.status_code == 421
    assert f"{stack.issuer}: write localhost in the URL" in answer.json()["error"]["message"]
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "WWW-Authenticate" not in answer.headers


@pytest.mark.parametrize("path", ["/account", "/time/mcp"])
def test_a_browser_reads_it_as_a_page(stack: RunningStack, path: str) -> None:
    url = f"http://127.0.0.1:{stack.port}{path}"
    answer = requests.get(url, headers={"Accept": "text/html"}, timeout=60)
    assert answer.status_code == 421
    assert "This gateway has another name" in answer.text


@pytest.mark.parametrize("host", ["localhost", "localhost:1", "LOCALHOST"])
def test_a_resource_is_described_whatever_port_the_host_header_names(stack: RunningStack, host: str) -> None:
    path = "/.well-known/oauth-protected-resource/time/mcp"
    answer = requests.get(f"{stack.issuer}{path}", headers={"Host": host}, timeout=60)
    assert answer.json()["resource"] == f"{stack.issuer}/time/mcp"


def test_any_other_name_is_not_answered(stack: RunningStack) -> None:
    answer = requests.get(f"{stack.issuer}/time/mcp", headers={"Host": "rebinding.example"}, timeout=60)
    assert answer.status_code == 404
