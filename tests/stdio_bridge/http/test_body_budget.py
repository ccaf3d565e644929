"""What requests may hold at a time, of one user and in all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.stdio_bridge.http.test_server import Client, Site, get

LARGEST = 100_000


@pytest.fixture
def site() -> Iterator[Site]:
    """Three of the largest bodies have room at a time, and two of one user."""
    running = Site(LARGEST)
    yield running
    running.close()


def head(user: str, *headers: str) -> bytes:
    return get("/", f"X-Gateway-Identity: {user}", *headers, method="POST")


def begin(site: Site, user: str, *headers: str) -> Client:
    """Announce one of the largest bodies, and send none of it."""
    client = site.connect()
    client.send(head(user, f"Content-Length: {LARGEST}", *headers))
    for _ in range(5):
        site.loop.call_later(0.002, lambda: None)
        site.loop.turn()
    return client


def refused(client: Client) -> bool:
    answer = client.read_to_end()
    assert b'"code":-32000' in answer
    assert b"Retry-After: 5\r\n" in answer
    return answer.startswith(b"HTTP/1.1 503 ")


def test_a_user_has_room_for_some_large_bodies_and_another_one_still_has_then(site: Site) -> None:
    first = begin(site, "one")
    begin(site, "one")
    assert refused(begin(site, "one"))
    begin(site, "two")
    assert refused(begin(site, "three"))
    small = site.ask(head("one", "Content-Length: 4") + b"body")
    assert small[1].body() == b"body"
    first.socket.close()
    site.turn_until(lambda: site.server.connections == 5)
    third = begin(site, "three")
    third.send(b"x" * LARGEST)
    site.turn_until(lambda: len(site.asked) == 2)
    assert site.asked[1][0].body() == b"x" * LARGEST


def test_there_is_room_again_once_a_request_is_answered(site: Site) -> None:
    for _ in range(5):
        client, _, response = site.ask(head("one", f"Content-Length: {LARGEST}") + b"x" * LARGEST)
        response.reply("200 OK", [], b"done")
        client.read_until(lambda data: data.endswith(b"done"))


def test_a_request_that_is_being_answered_takes_room_whoever_has_read_its_body(site: Site) -> None:
    for _ in range(2):
        _, request, _ = site.ask(head("one", f"Content-Length: {LARGEST}") + b"x" * LARGEST)
        request.body()
    assert refused(begin(site, "one"))


def test_chunks_take_room_as_they_come(site: Site) -> None:
    begin(site, "one")
    chunk = b"%X\r\n%b\r\n" % (70_000, b"x" * 70_000)
    clients = [site.connect(), site.connect()]
    for client in clients:
        client.send(head("one", "Transfer-Encoding: chunked") + chunk)
    assert refused(clients[1])
    clients[0].send(b"0\r\n\r\n")
    site.turn_until(lambda: site.asked)
    assert len(site.asked[0][0].body()) == 70_000
    site.asked[0][1].reply("200 OK", [])
    begin(site, "one")
    assert refused(begin(site, "one"))


@pytest.mark.parametrize("length", [LARGEST, LARGEST + 1])
def test_a_body_that_is_refused_is_not_asked_for(site: Site, length: int) -> None:
    begin(site, "one")
    begin(site, "one")
    client = site.connect()
    client.send(head("one", f"Content-Length: {length}", "Expect: 100-continue"))
    assert not client.read_to_end().startswith(b"HTTP/1.1 100 ")
