"""How the egress proxy looks up names and connects, whatever a resolver answers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from stdio_bridge.egress import upstream
from stdio_bridge.egress.connect_request import Target
from stdio_bridge.egress.upstream import LOOKUPS, LOOKUPS_OF_A_SESSION, Upstream, is_own

TARGET = Target("api.example.com", 443)
LIMIT = 60  # seconds
V4, V6 = socket.AF_INET, socket.AF_INET6
Found = list[tuple[socket.AddressFamily, tuple[str, int]]]


def answer(monkeypatch: pytest.MonkeyPatch, found: Found) -> list[str]:
    """Let every name have these addresses; return the names that are looked up."""
    asked: list[str] = []

    def look_up(name: str, port: int, **_: object) -> list[object]:
        asked.append(name)
        return [(family, socket.SOCK_STREAM, 6, "", address) for family, address in found]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


@contextlib.contextmanager
def listening() -> Iterator[tuple[str, int]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()


def let_own_be(monkeypatch: pytest.MonkeyPatch, *own: str) -> None:
    """Let these addresses be the host's own, and no others: what tests connect to is."""
    monkeypatch.setattr(upstream, "is_own", lambda _family, address: address[0] in own)


async def connect(session: int | None = 1, target: Target = TARGET) -> tuple[str, int]:
    """Connect, and return where to."""
    async with asyncio.timeout(LIMIT):
        with Upstream() as made, await made.connect(target, session) as connected:
            peer: tuple[str, int] = connected.getpeername()
            return peer


def test_names_are_resolved_once_and_without_search_domains(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening() as address:
        let_own_be(monkeypatch)
        asked = answer(monkeypatch, [(V4, address)])
        assert asyncio.run(connect()) == address
    assert asked == ["api.example.com."]


def test_a_name_that_is_not_found_leads_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> list[object]:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(socket.gaierror):
        asyncio.run(connect())


def test_the_addresses_that_were_checked_are_those_that_are_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Although the name has another address at the next lookup."""
    with listening() as public, listening() as private:
        answers = iter([[(V4, public)], [(V4, private)]])
        checked: list[object] = []
        monkeypatch.setattr(
            socket,
            "getaddrinfo",
            lambda *_, **__: [(family, socket.SOCK_STREAM, 6, "", address) for family, address in next(answers)],
        )
        monkeypatch.setattr(upstream, "is_own", lambda _family, address: checked.append(address))
        assert asyncio.run(connect()) == public
        assert checked == [public]
        assert len(list(answers)) == 1


@pytest.mark.parametrize("own_first", [True, False])
def test_of_an_answer_with_the_hosts_own_address_only_the_others_are_tried(
    monkeypatch: pytest.MonkeyPatch, own_first: bool
) -> None:
    with listening() as other:
        own = ("192.0.2.77", other[1])
        let_own_be(monkeypatch, "192.0.2.77")
        tried: list[str] = []
        real = upstream._connect_to

        async def connect_to(family: socket.AddressFamily, address: tuple[str, int]) -> socket.socket:
            tried.append(address[0])
            return await real(family, address)

        monkeypatch.setattr(upstream, "_connect_to", connect_to)
        answer(monkeypatch, [(V4, own), (V4, other)] if own_first else [(V4, other), (V4, own)])
        assert asyncio.run(connect()) == other
    assert tried == ["127.0.0.1"]


def test_a_name_with_only_the_hosts_own_addresses_leads_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening() as address:
        answer(monkeypatch, [(V4, address)])
        with pytest.raises(PermissionError):
            asyncio.run(connect())


def test_the_hosts_own_addresses_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_own(V4, ("127.0.0.1", 443))
    assert is_own(V4, ("127.7.7.7", 443)), "where the source would be another one of its own"
    assert not is_own(V4, ("240.0.0.2", 443))
    assert not is_own(V6, ("4000::2", 443, 0, 0))
    # Where the host takes any address for a socket, its own are still known by their source.
    monkeypatch.setattr(upstream, "_takes", lambda _family, _address: True)
    assert is_own(V4, ("127.0.0.1", 443))
    assert not is_own(V4, ("240.0.0.2", 443))


def test_without_an_address_family_its_addresses_are_not_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> socket.socket:
        raise OSError(97, "Address family not supported by protocol")

    monkeypatch.setattr(socket, "socket", fail)
    assert not is_own(V6, ("::1", 443, 0, 0))


def test_an_address_that_refuses_is_followed_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening() as refusing:
        pass
    with listening() as address:
        let_own_be(monkeypatch)
        answer(monkeypatch, [(V4, refusing), (V4, refusing), (V4, address)])
        assert asyncio.run(connect()) == address
    answer(monkeypatch, [(V4, refusing), (V4, refusing)])
    with pytest.raises(ConnectionRefusedError):
        asyncio.run(connect())


def test_an_address_that_does_not_answer_does_not_hold_up_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    let_own_be(monkeypatch)
    tried: list[str] = []

    async def connect_to(_family: socket.AddressFamily, address: tuple[str, int]) -> socket.socket:
        tried.append(address[0])
        if address[0] == "192.0.2.1":
            await asyncio.Event().wait()
        made, other = socket.socketpair()
        other.close()
        return made

    monkeypatch.setattr(upstream, "_connect_to", connect_to)
    answer(monkeypatch, [(V4, ("192.0.2.1", 443)), (V4, ("192.0.2.2", 443))])
    asyncio.run(connect())
    assert tried == ["192.0.2.1", "192.0.2.2"]


def test_addresses_of_both_families_are_tried_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    let_own_be(monkeypatch)
    tried: list[str] = []

    async def connect_to(_family: socket.AddressFamily, address: tuple[str, int]) -> socket.socket:
        tried.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(upstream, "_connect_to", connect_to)
    found = [(V6, "2001:db8::1"), (V6, "2001:db8::2"), (V4, "192.0.2.1"), (V4, "192.0.2.2")]
    answer(monkeypatch, [(family, (address, 443)) for family, address in found])
    with pytest.raises(ConnectionRefusedError):
        asyncio.run(connect())
    assert tried == ["2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2"]


def test_a_session_whose_lookups_take_long_leaves_threads_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it asks for more than there are threads, and goes away while they are busy."""
    started = threading.Semaphore(0)
    may_answer = threading.Event()
    looked_up: list[str] = []

    def look_up(name: str, _port: int, **_: object) -> list[object]:
        looked_up.append(name)
        if name != "api.example.com.":
            started.release()
            assert may_answer.wait(LIMIT)
        return [(V4, socket.SOCK_STREAM, 6, "", address)]

    async def scenario() -> None:
        with Upstream() as made:
            slow = [Target(f"s{number}.example.com", 443) for number in range(2 * LOOKUPS)]
            asking = [asyncio.create_task(made.connect(target, 1)) for target in slow]
            for _ in range(LOOKUPS_OF_A_SESSION):
                assert await asyncio.to_thread(started.acquire, timeout=LIMIT)
            for _round in range(2):
                (await made.connect(TARGET, 2)).close()
                (await made.connect(TARGET, None)).close()
                for each in asking:
                    each.cancel()
                await asyncio.gather(*asking, return_exceptions=True)
                asking = [asyncio.create_task(made.connect(target, 1)) for target in slow]
            assert len(looked_up) == LOOKUPS_OF_A_SESSION + 4
            may_answer.set()
            # The threads are free again when the resolver has answered.
            for connected in await asyncio.gather(*asking):
                connected.close()

    with listening() as address:
        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        let_own_be(monkeypatch)
        try:
            asyncio.run(scenario())
        finally:
            may_answer.set()
