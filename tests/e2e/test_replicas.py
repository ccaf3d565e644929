"""Several replicas of a server behind the real router: which one gets a request, and which sessions a death ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.router import NO_REPLICA, NOWHERE, REFUSED, Backend, Router
from tests.peers import oldest_traefik

HERE = ("127.0.0.1",)
ADDRESSES = tuple(f"127.0.0.{last}" for last in range(2, 34))


class Replicas(Router):
    """The router in front of several replicas."""

    def __init__(self, folder: Path, replicas: dict[str, Backend], *, program: str = "traefik") -> None:
        urls = {name: f"{each.url}/mcp" for name, each in replicas.items()}
        super().__init__(folder, {"replicas": urls}, program=program)

    def ask(self, *, session: str | None = None, address: str = "127.0.0.1") -> tuple[int, str]:
        """Return the status, and the name of the replica that answered a client at this address."""
        answer = self.get("/mcp", {} if session is None else {"Mcp-Session-Id": session}, address=address)
        return answer.status_code, answer.text

    def wait_for(self, expected: tuple[int, str], *, session: str | None, addresses: tuple[str, ...] = HERE) -> None:
        """Ask until this is the answer from each address."""
        self.wait_until(lambda: {self.ask(session=session, address=address) for address in addresses} == {expected})


@pytest.fixture(scope="module")
def replicas() -> Iterator[dict[str, Backend]]:
    running = {name: Backend({}, name=name) for name in ("a", "b")}
    yield running
    for replica in running.values():
        replica.stop()


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory, replicas: dict[str, Backend]) -> Iterator[Replicas]:
    running = Replicas(tmp_path_factory.mktemp("router"), replicas)
    try:
        running.wait_for((200, "a"), session="a.1")
        yield running
    finally:
        running.stop()


def test_a_session_stays_on_its_replica(router: Replicas) -> None:
    for _ in range(5):
        assert router.ask(session="a.secret") == (200, "a")
        assert router.ask(session="b.secret") == (200, "b")


def test_requests_without_a_session_are_spread_over_the_replicas_by_the_clients_address(router: Replicas) -> None:
    answers = {address: router.ask(address=address) for address in ADDRESSES}
    assert set(answers.values()) == {(200, "a"), (200, "b")}
    assert all(router.ask(address=address) == answer for address, answer in answers.items())


@pytest.mark.parametrize("session", ["c.unknown", "ab.x", "a", "", "A.x", "x-a.x"])
def test_a_session_of_no_replica_goes_to_any(router: Replicas, session: str) -> None:
    status, name = router.ask(session=session)
    assert status == 200
    assert name in {"a", "b"}


def test_a_request_that_a_replica_refuses_ends_no_session(router: Replicas) -> None:
    for _ in range(5):
        answer = router.get(REFUSED, {"Mcp-Session-Id": "a.1"})
        assert (answer.status_code, answer.text) == (503, "a")  # in the replica's own words
        assert router.ask(session="a.2") == (200, "a")


def test_a_replica_that_dies_costs_only_its_own_sessions(router: Replicas, replicas: dict[str, Backend]) -> None:
    port = replicas["a"].port
    replicas["a"].stop()
    # No request fails, not even before its end has been noticed.
    assert {router.ask(address=address) for address in ADDRESSES} == {(200, "b")}
    assert router.ask(session="b.1") == (200, "b")
    # Another replica answers for it, so that the client hears that its session is gone.
    assert router.ask(session="a.1") == (200, "b")
    replicas["a"] = Backend({}, name="a", port=port)
    router.wait_for((200, "a"), session="a.1")


@pytest.mark.parametrize("program", ["newest", "oldest"])
def test_a_server_whose_replicas_are_all_dead_is_refused_in_the_form_of_its_endpoint(
    tmp_path: Path, program: str
) -> None:
    dead = {name: Backend({}, name=name) for name in ("a", "b")}
    router = Replicas(tmp_path, dead, program="traefik" if program == "newest" else oldest_traefik())
    try:
        router.wait_for((200, "a"), session="a.1")
        ports = {name: each.port for name, each in dead.items()}
        for each in dead.values():
            each.stop()
        requests = [{}, {"Mcp-Session-Id": "a.1"}, {"Mcp-Session-Id": "c.1"}, {"MCP-Protocol-Version": "2026-07-28"}]
        for headers in requests:
            router.wait_until(lambda: router.get("/mcp", headers).status_code == 503)  # noqa: B023 - done before the next
            answer = router.get("/mcp", headers)
            assert (answer.text, answer.headers["Access-Control-Allow-Origin"]) == (NO_REPLICA, "*")
        dead |= {name: Backend({}, name=name, port=port) for name, port in ports.items()}
        router.wait_for((200, "a"), session="a.1")
        assert router.get(REFUSED, {"Mcp-Session-Id": "a.1"}).text == "a"
    finally:
        router.stop()
        for each in dead.values():
            each.stop()


@pytest.mark.parametrize("program", ["newest", "oldest"])
def test_auth_services_that_are_not_ready_answer_for_themselves(tmp_path: Path, program: str) -> None:
    instances = [Backend({"/refusals/nowhere/404": NOWHERE}, name=name, refused="/readyz") for name in ("1", "2")]
    router = Router(
        tmp_path,
        {"backends": ["http://127.0.0.1:1/mcp"]},
        settings={"instances": [each.url for each in instances]},
        program="traefik" if program == "newest" else oldest_traefik(),
    )
    try:
        router.wait_until(lambda: router.get("/jwks").text in {"1", "2"})
        # Traefik has seen by now that no instance is ready.
        router.wait_until(lambda: all(each.asked("/readyz") > 1 for each in instances))
        assert router.get("/jwks").text in {"1", "2"}
        assert router.get("/nothing").text == NOWHERE
    finally:
        router.stop()
        for each in instances:
            each.stop()
