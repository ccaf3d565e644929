"""Rate limits of the public endpoints, at the real router."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.router import Router

BURST = 3
SLOWLY = {"average": 1, "period": 3600, "burst": BURST}
PATHS = {
    "registration": "/register",
    "authorization": "/authorize",
    "token": "/token",
    "metadata": "/.well-known/oauth-authorization-server",
}


@contextmanager
def limited(folder: Path, *, trusted_proxies: list[str] | None = None) -> Iterator[Router]:
    router = Router(
        folder,
        {"backends": ["http://127.0.0.1:1/mcp"]},
        settings={"limits": {"rates": dict.fromkeys(PATHS, SLOWLY)}},
        trusted_proxies=trusted_proxies,
    )
    try:
        # From an address that no test uses: it is counted, too.
        router.wait_until(lambda: router.get("/jwks", address="127.0.0.99").status_code == 200)
        yield router
    finally:
        router.stop()


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    with limited(tmp_path_factory.mktemp("limits")) as router:
        yield router


@pytest.mark.parametrize(
    ("number", "group", "path"),
    [(number, *each) for number, each in enumerate(PATHS.items(), start=10)],
    ids=list(PATHS),
)
def test_beyond_the_burst_an_address_is_told_to_wait_and_others_are_served(
    router: Router, number: int, group: str, path: str
) -> None:
    address = f"127.0.0.{number}"
    assert [router.get(path, address=address).status_code for _ in range(BURST)] == [200] * BURST
    refused = router.get(path, address=address)
    # The text and Retry-After are the authorization server's, which only says here that it was asked.
    assert (refused.status_code, refused.text) == (429, f"refused at {group}")
    assert router.get(path, address=f"127.0.1.{number}").status_code == 200


@pytest.mark.parametrize("path", ["/register", "/token", "/jwks", "/.well-known/oauth-authorization-server", "/mcp"])
def test_preflights_count_against_no_limit(router: Router, path: str) -> None:
    preflight = {"Origin": "https://client.example", "Access-Control-Request-Method": "POST"}
    for _ in range(3 * BURST):
        answer = router.request("OPTIONS", path, preflight, address="127.0.0.30")
        assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (200, "*")
    if path != "/mcp":
        assert router.get(path, preflight, address="127.0.0.30").headers["Access-Control-Allow-Origin"] == "*"


def test_each_group_of_endpoints_has_a_count_of_its_own(router: Router) -> None:
    for path in PATHS.values():
        assert [router.get(path, address="127.0.0.20").status_code for _ in range(BURST)] == [200] * BURST


def test_all_paths_of_a_group_share_its_count(router: Router) -> None:
    paths = ("/token", "/revoke", "/introspect", "/token")
    assert [router.get(path, address="127.0.0.21").status_code for path in paths] == [200, 200, 200, 429]
    paths = ("/register", "/register/a", "/register/b", "/register/c")
    assert [router.get(path, address="127.0.0.21").status_code for path in paths] == [200, 200, 200, 429]


@pytest.mark.parametrize(
    ("header", "address"),
    [
        ("X-Forwarded-For", "127.0.2.1"),
        ("X-Real-Ip", "127.0.2.2"),
        ("Forwarded", "127.0.2.3"),
        ("X_Forwarded_For", "127.0.2.4"),
    ],
)
def test_what_a_client_says_of_its_address_counts_for_nothing(router: Router, header: str, address: str) -> None:
    answers = [router.get("/register", {header: f"192.0.2.{number}"}, address=address) for number in range(BURST + 1)]
    assert [answer.status_code for answer in answers] == [200] * BURST + [429]


def test_behind_a_trusted_proxy_its_clients_are_told_apart_and_can_not_pretend(tmp_path: Path) -> None:
    with limited(tmp_path, trusted_proxies=["127.0.0.0/8"]) as router:

        def ask(forwarded_for: str) -> int:
            return router.get("/register", {"X-Forwarded-For": forwarded_for}).status_code

        assert [ask("203.0.113.1") for _ in range(BURST + 1)] == [200] * BURST + [429]
        assert ask("203.0.113.2") == 200
        # What stands left of the address that the proxy saw was written by the client.
        assert ask("198.51.100.7, 203.0.113.1") == 429
        assert ask("198.51.100.7, 203.0.113.1, 127.0.0.5") == 429
