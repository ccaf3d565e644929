"""What server.py takes for granted about waitress, and what it promises on top."""

from __future__ import annotations

import contextlib
import json
import re
import resource
import socket
from collections.abc import Callable, Iterator

import pytest

from stdio_bridge.http import channel, server
from stdio_bridge.http.body_budget import BodyBudget
from stdio_bridge.http.exchange import Request, Response
from stdio_bridge.http.json_errors import render_error
from stdio_bridge.http.server import HttpServer
from stdio_bridge.io.event_loop import Loop

MAX_BODY_BYTES = 100
MAX_UNSENT_BYTES = 1 << 20
MAX_CONNECTIONS = 10
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"
GIVE_UP_SECONDS = 60


class Client:
    """One connection, read only as far as the test wants."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.socket = socket.create_connection(site.address)
        self.socket.setblocking(False)
        self.received = b""
        self.closed = False

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read_until(self, condition: Callable[[bytes], object]) -> bytes:
        def met() -> bool:
            try:
                data = self.socket.recv(65536)
                self.received += data
                self.closed = not data
            except BlockingIOError:
                pass
            return bool(condition(self.received))

        self._site.turn_until(met)
        return self.received

    def read_to_end(self) -> bytes:
        return self.read_until(lambda _: self.closed)


class Site:
    """A server whose application is the test; both ends run on the test's own thread."""

    def __init__(self, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self.asked: list[tuple[Request, Response]] = []
        self.clients: list[Client] = []
        self.loop = Loop()
        listener = socket.create_server(("127.0.0.1", 0))
        self.address = listener.getsockname()
        self.server = HttpServer(
            lambda request, response: self.asked.append((request, response)),
            self.loop,
            listener,
            max_body_bytes=max_body_bytes,
            max_unsent_bytes=MAX_UNSENT_BYTES,
            max_unsent_bytes_in_all=2 * MAX_UNSENT_BYTES,
            body_budget=BodyBudget(
                max_bytes=3 * max_body_bytes,
                max_bytes_of_one=2 * max_body_bytes,
                owner_of=lambda headers: headers.get("x-gateway-identity"),
            ),
            max_connections=MAX_CONNECTIONS,
            render_error=render_error,
        )

    def connect(self) -> Client:
        self.clients.append(Client(self))
        return self.clients[-1]

    def ask(self, data: bytes) -> tuple[Client, Request, Response]:
        client, before = self.connect(), len(self.asked)
        client.send(data)
        self.turn_until(lambda: len(self.asked) > before)
        return client, *self.asked[-1]

    def turn_until(self, condition: Callable[[], object]) -> None:
        deadline = self.loop.clock() + GIVE_UP_SECONDS
        while not condition():
            assert self.loop.clock() < deadline, "what the test waits for did not happen"
            self.loop.call_later(0.02, lambda: None)
            self.loop.turn()

    def close(self) -> None:
        for client in self.clients:
            client.socket.close()
        self.server.close()
        self.loop.close()


@pytest.fixture
def site() -> Iterator[Site]:
    running = Site()
    yield running
    running.close()


def get(path: str, *headers: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: a", *headers, "", ""]).encode()


def test_a_header_with_underscores_cannot_stand_in_for_one_with_hyphens(site: Site) -> None:
    _, request, _ = site.ask(get("/", "X_Gateway_Identity: forged", "X-Gateway-Name: real"))
    assert request.headers == {"host": "a", "x-gateway-name": "real"}


def test_a_repeated_header_is_joined_and_not_chosen_from(site: Site) -> None:
    _, request, _ = site.ask(get("/", "X-Gateway-Identity: one", "X-Gateway-Identity: two"))
    assert request.headers["x-gateway-identity"] == "one, two"


def test_a_response_may_be_written_after_the_application_returned(site: Site) -> None:
    client, request, response = site.ask(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody")
    assert (request.method, request.path, request.body()) == ("POST", "/a", b"body")
    response.reply("202 Accepted", [], b"later")
    answer = client.read_until(lambda data: data.endswith(b"later"))
    assert answer.startswith(b"HTTP/1.1 202 Accepted\r\n")


def test_pipelined_requests_are_handed_over_and_answered_one_after_the_other(site: Site) -> None:
    client, first, response = site.ask(get("/1") + get("/2"))
    other, _, _ = site.ask(get("/other"))
    assert [request.path for request, _ in site.asked] == ["/1", "/other"]
    response.reply("200 OK", [], b"one")
    site.turn_until(lambda: len(site.asked) == 3)
    site.asked[2][1].reply("200 OK", [], b"two")
    client.read_until(lambda data: data.endswith(b"two"))
    assert (first.path, site.asked[2][0].path) == ("/1", "/2")
    assert re.findall(rb"\r\n\r\n(one|two)", client.received) == [b"one", b"two"]
    assert other.received == b""


def test_a_connection_outlives_a_stream_that_was_finished(site: Site) -> None:
    client, _, response = site.ask(get("/stream"))
    response.start([("Content-Type", "text/event-stream")], b"a")
    response.write(b"bc")
    response.finish()
    body = client.read_until(lambda data: data.endswith(b"0\r\n\r\n")).partition(b"\r\n\r\n")[2]
    assert body == b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n"
    client.send(get("/next"))
    site.turn_until(lambda: len(site.asked) == 2)


def test_head_tells_the_length_and_sends_no_body(site: Site) -> None:
    client, _, response = site.ask(get("/", "Connection: close", method="HEAD"))
    response.reply("200 OK", [], b"four")
    head, _, body = client.read_to_end().partition(b"\r\n\r\n")
    assert b"Content-Length: 4" in head
    assert body == b""


@pytest.mark.parametrize(
    ("status", "data"),
    [
        pytest.param(400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n" + CHUNKED, id="two lengths"),
        pytest.param(400, b"POST / HTTP/1.0\r\nHost: a\r\n" + CHUNKED, id="chunks before HTTP/1.1"),
        pytest.param(413, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 101\r\n\r\n" + b"x" * 101, id="too large"),
        pytest.param(400, b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", id="malformed"),
    ],
)
def test_what_the_parser_refuses_is_answered_in_json_rpc_and_never_handed_over(
    site: Site, status: int, data: bytes
) -> None:
    client = site.connect()
    client.send(data)
    head, _, body = client.read_to_end().partition(b"\r\n\r\n")
    assert head.split()[:2] == [b"HTTP/1.1", str(status).encode()]
    assert json.loads(body)["error"]["code"] == -32600
    assert site.asked == []


def test_a_refused_client_may_send_on_and_is_heard_no_more_until_it_leaves(site: Site) -> None:
    client = site.connect()
    client.send(b"GET / HTTP/1.1\r\nHost : a\r\n\r\n")
    client.read_to_end()
    client.send(b"GET /another HTTP/1.1\r\nHost: a\r\n\r\n")
    site.ask(b"GET /else HTTP/1.1\r\nHost: a\r\n\r\n")
    assert [request.path for request, _ in site.asked] == ["/else"]
    assert site.server.connections == 2
    client.socket.close()
    site.turn_until(lambda: site.server.connections == 1)


def test_a_refused_client_that_stays_is_dropped(monkeypatch: pytest.MonkeyPatch, site: Site) -> None:
    monkeypatch.setattr(channel, "_LINGER_SECONDS", 0.0)
    site.connect().send(b"GET / HTTP/1.1\r\nHost : a\r\n\r\n")
    site.turn_until(lambda: site.server.connections == 1)
    site.turn_until(lambda: site.server.connections == 0)


@pytest.mark.parametrize("begun", [b"GET / HTT", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx"])
def test_a_client_that_does_not_come_to_an_end_with_its_request_is_dropped(
    monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(server, "_MAINTENANCE_SECONDS", 0.0)
    with contextlib.closing(Site()) as site:
        waiting, _, response = site.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        # While it is being answered it may take its time with the next request, and between two of them as well.
        waiting.send(begun)
        _, _, other = site.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        other.reply("200 OK", [])
        slow = site.connect()
        slow.send(begun)
        slow.read_to_end()
        for _ in range(20):
            site.loop.turn()
        assert site.server.connections == 2
        response.reply("200 OK", [])
        waiting.read_to_end()
        for _ in range(20):
            site.loop.turn()
        assert site.server.connections == 1


def test_a_body_of_exactly_the_limit_is_handed_over(site: Site) -> None:
    _, request, _ = site.ask(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n" + b"x" * 100)
    assert len(request.body()) == MAX_BODY_BYTES


def test_a_client_that_leaves_too_much_unread_is_dropped(site: Site) -> None:
    _, _, response = site.ask(get("/"))
    dropped: list[bool] = []
    response.on_disconnect = lambda: dropped.append(True)
    response.start([], b"first")

    def written_until_dropped() -> list[bool]:
        response.write(b"x" * 65536)
        return dropped

    site.turn_until(written_until_dropped)
    assert dropped == [True]
    site.turn_until(lambda: site.server.connections == 0)


def test_of_clients_that_leave_too_much_unread_in_all_the_slowest_is_dropped(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    reading = site.ask(get("/"))
    reading[2].start([], b"first")
    slow = [site.ask(get("/"))[2] for _ in range(4)]
    dropped: list[Response] = []
    for response in slow:
        response.on_disconnect = lambda response=response: dropped.append(response)
        response.start([], b"first")

    def written_until_dropped() -> list[Response]:
        for response in slow:
            response.write(b"x" * 65536)
        return dropped

    site.turn_until(written_until_dropped)
    assert len(dropped) == 1
    assert "the client that left the most unread" in caplog.text
    reading[2].write(b"second")
    reading[0].read_until(lambda data: b"second" in data)


@pytest.mark.parametrize("started", [False, True])
def test_a_client_that_leaves_is_noticed_once_and_writing_on_is_harmless(site: Site, started: bool) -> None:
    client, _, response = site.ask(get("/"))
    left: list[bool] = []
    response.on_disconnect = lambda: left.append(True)
    if started:
        response.start([], b"first")
    client.socket.close()
    site.turn_until(lambda: left)
    response.write(b"more")
    response.finish()
    response.reply("200 OK", [])
    site.turn_until(lambda: site.server.connections == 0)
    assert left == [True]


def test_only_connections_count_to_their_limit(site: Site) -> None:
    for fd in range(1_000_000, 1_000_020):
        site.loop[fd] = Idle()  # as the pipes to a server's process
    answered = [site.ask(get("/")) for _ in range(MAX_CONNECTIONS)]
    one_more = site.connect()
    one_more.send(get("/another"))
    for _ in range(20):
        site.loop.call_later(0.005, lambda: None)
        site.loop.turn()
    assert len(site.asked) == MAX_CONNECTIONS
    answered[0][0].socket.close()
    site.turn_until(lambda: site.asked[-1][0].path == "/another")


class Idle:
    """Waits for nothing."""

    accepting = False

    def readable(self) -> bool:
        return False

    writable = readable

    def handle_read_event(self) -> None: ...

    handle_write_event = handle_close = handle_read_event


def test_without_a_free_descriptor_a_connection_waits_and_the_loop_does_too(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    client = site.connect()
    client.send(get("/"))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as next_free:
        lowest_free = next_free.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
    try:
        for _ in range(20):
            site.loop.call_later(0.005, lambda: None)
            site.loop.turn()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert [record.getMessage() for record in caplog.records] == ["no connection can be accepted: Too many open files"]
    site.turn_until(lambda: site.asked)


LARGE_BYTES = 64 * 1024 + 1


class SlowSite(Site):
    """A server for which time goes by only when the test says so."""

    def __init__(self) -> None:
        super().__init__(max_body_bytes=2 * LARGE_BYTES)
        self._now = self.loop.clock()
        self.loop.clock = lambda: self._now

    def post(self, size: int) -> tuple[Client, Response]:
        client, _, response = self.ask(get("/", f"Content-Length: {size}", method="POST") + b"x" * size)
        return client, response

    def sends_nothing(self, client: Client) -> bool:
        other, response = self.post(1)
        response.reply("204 No Content", [])
        other.read_until(lambda received: received)
        with pytest.raises(BlockingIOError):
            client.socket.recv(1)
        return True

    def let_time_pass(self) -> None:
        self._now += 1


@pytest.fixture
def slow_site() -> Iterator[SlowSite]:
    running = SlowSite()
    yield running
    running.close()


def test_a_stream_that_answers_a_large_request_begins_a_moment_later(slow_site: SlowSite) -> None:
    client, response = slow_site.post(LARGE_BYTES)
    response.start([], b"first")
    response.write(b"second")
    response.finish()
    assert slow_site.sends_nothing(client)
    slow_site.let_time_pass()
    received = client.read_until(lambda received: received.endswith(b"0\r\n\r\n"))
    assert received.index(b"first") < received.index(b"second")


def test_a_large_answer_to_a_large_request_begins_a_moment_later(slow_site: SlowSite) -> None:
    client, response = slow_site.post(LARGE_BYTES)
    response.reply("200 OK", [], b"x" * LARGE_BYTES)
    assert slow_site.sends_nothing(client)
    slow_site.let_time_pass()
    client.read_until(lambda received: received.count(b"x") == LARGE_BYTES)


def test_no_other_answer_waits(slow_site: SlowSite) -> None:
    client, response = slow_site.post(LARGE_BYTES)
    response.reply("200 OK", [], b"x" * (LARGE_BYTES - 1))
    client.read_until(lambda received: received.count(b"x") == LARGE_BYTES - 1)
    client, response = slow_site.post(LARGE_BYTES - 1)
    response.start([], b"first")
    client.read_until(lambda received: b"first" in received)
    client, response = slow_site.post(LARGE_BYTES - 1)
    response.reply("200 OK", [], b"x" * LARGE_BYTES)
    client.read_until(lambda received: received.count(b"x") == LARGE_BYTES)


def test_a_stream_that_begins_later_by_itself_does_not_wait(slow_site: SlowSite) -> None:
    client, response = slow_site.post(LARGE_BYTES)
    slow_site.let_time_pass()
    assert slow_site.sends_nothing(client)
    response.start([], b"first")
    client.read_until(lambda received: b"first" in received)


def test_a_client_that_leaves_before_its_stream_has_begun_is_noticed(slow_site: SlowSite) -> None:
    client, response = slow_site.post(LARGE_BYTES)
    left: list[bool] = []
    response.on_disconnect = lambda: left.append(True)
    response.start([], b"first")
    client.socket.close()
    assert slow_site.sends_nothing(slow_site.connect())
    slow_site.let_time_pass()
    slow_site.turn_until(lambda: left)


def test_a_connection_is_of_use_after_an_answer_that_waited(slow_site: SlowSite) -> None:
    client, response = slow_site.post(LARGE_BYTES)
    response.start([], b"first")
    response.finish()
    slow_site.let_time_pass()
    client.read_until(lambda received: received.endswith(b"0\r\n\r\n"))
    before = len(slow_site.asked)
    client.send(get("/again"))
    slow_site.turn_until(lambda: len(slow_site.asked) > before)
    slow_site.asked[-1][1].reply("204 No Content", [])
    client.read_until(lambda received: b"204" in received)
