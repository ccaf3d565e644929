"""Pages for people, through the router: the home page, and what a browser gets at a server's URL."""

from __future__ import annotations

import pytest
import requests

from tests.browser import Browser
from tests.e2e.conftest import RunningStack
from tests.e2e.flow import MCP_HEADERS

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


def test_the_home_page_leads_a_user_who_signs_in_to_the_servers(stack: RunningStack) -> None:
    browser = Browser()
    stranger = browser.session.get(f"{stack.issuer}/", timeout=60)
    assert stranger.status_code == 200
    assert stack.resource("time") not in stranger.text
    shown = browser.open(f"{stack.issuer}/")
    assert isinstance(shown, requests.Response)
    assert shown.url == f"{stack.issuer}/"
    for name in ("time", "echo"):
        url = stack.resource(name)
        assert f"claude mcp add --transport http {name} {url}" in shown.text
        assert f'<li id="{name}">' in shown.text
    assert "<dd>Up</dd>" in "".join(shown.text.split())


def test_a_browser_at_a_servers_url_gets_a_page_with_the_clients_challenge(stack: RunningStack) -> None:
    url = stack.resource("time")
    client = requests.get(url, headers=MCP_HEADERS, timeout=60)
    page = requests.get(url, headers=BROWSER, timeout=60)
    assert page.status_code == client.status_code == 401
    assert page.headers["WWW-Authenticate"] == client.headers["WWW-Authenticate"]
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert f'href="{stack.issuer}/"' in page.text
    assert client.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("GET", {"Accept": "application/json, text/event-stream"}),
        ("GET", {"Accept": "*/*"}),
        ("GET", {}),
        ("POST", BROWSER),
        ("DELETE", BROWSER),
        ("GET", BROWSER | {"Authorization": "Bearer x"}),
        ("GET", BROWSER | {"Authorization": "Basic eDp5"}),
    ],
)
def test_every_other_request_is_answered_as_a_clients(
    stack: RunningStack, method: str, headers: dict[str, str]
) -> None:
    answer = requests.request(method, stack.resource("time"), headers=headers, timeout=60)
    assert answer.status_code == 401
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["WWW-Authenticate"].startswith("Bearer ")


@pytest.mark.parametrize(
    "path", ["/visits/time/401", "/visits/time/200", "/mcp/../visits/time/200", "//visits/time/200"]
)
def test_the_page_has_no_address_of_its_own(stack: RunningStack, path: str) -> None:
    prepared = requests.Request("GET", stack.issuer, headers=BROWSER).prepare()
    prepared.url = stack.issuer + path
    with requests.Session() as session:
        assert session.send(prepared, timeout=60).status_code == 404
