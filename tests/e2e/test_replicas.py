"""Several replicas of a server behind the real router: who gets which request, and what a death costs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.router import REFUSED, Backend, Router

HERE = ("127.0.0.1",)
ADDRESSES = tuple(f"127.0.0.{last}" for last in range(2, 34))


class Replicas(Router):
    """The router in front of several replicas."""

    def __init__(self, folder: Path, replicas: dict[str, Backend]) -> None:
        super().__init__(folder, {"replicas": {name: f"{each.url}/mcp" for name, each in replicas.items()}})

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


def test_a_request_that_a_replica_refuses_costs_nobody_their_session(router: Replicas) -> None:
    for _ in range(5):
        assert router.get(REFUSED, {"Mcp-Session-Id": "a.1"}).status_code == 503
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
