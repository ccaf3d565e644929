"""Processes that end before the credential of their user does, by a clock that the test sets."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stdio_bridge.http.identity import Identity
from stdio_bridge.io.event_loop import Loop
from stdio_bridge.io.metrics import Registry
from stdio_bridge.options import parse_options
from stdio_bridge.protocol.errors import HttpError, UsageError
from stdio_bridge.servers.handshake import EraCache
from stdio_bridge.servers.leases import Leases
from stdio_bridge.servers.pool import ServerPool
from stdio_bridge.servers.session_lease import SessionLease
from stdio_bridge.servers.suspended_calls import SuspendedCalls
from stdio_bridge.servers.user_credentials import Delivered
from tests.stdio_bridge.running import ECHO, KEY

URL = "http://127.0.0.1:1/credentials/notes"


class Asked:
    """In place of the auth service: answers at once, with what lasts for an hour."""

    def ask(self, identity: Identity, taken: Callable[[Delivered | HttpError], None]) -> Asked:
        self.loop.call_soon(lambda: taken(Delivered(environment={"TOKEN": identity.user}, good_for=3600.0)))
        return self

    def cancel(self) -> None:
        """It is over."""

    loop: Loop


class SessionOf:
    """A session without a call, whose client keeps its stream open."""

    idle_since = None
    seconds_in_use = 0.0

    def __init__(self, user: str) -> None:
        self.user = user
        self.has_ended = False

    def evict(self) -> None:
        self.has_ended = True

    lease_ended = evict

    def receive(self, message: Any) -> None:
        """Take no notice."""


class Site:
    def __init__(self, folder: Path, isolation: str) -> None:
        (folder / "key").write_text(KEY)
        self.now = 1000.0
        self.loop = Loop(lambda: self.now)
        arguments = ["--listen", "127.0.0.1:0", "--require-identity", str(folder / "key"), "--credentials-url", URL]
        options = parse_options([*arguments, "--isolation", isolation, "--", *ECHO], os.environ)
        asked = Asked()
        asked.loop = self.loop
        self.pool = ServerPool(self.loop, options, Registry(), credentials=asked)  # type: ignore[arg-type]
        suspended = SuspendedCalls(b"k" * 32, seconds=60, clock=self.loop.clock)
        self.leases = Leases(self.pool, EraCache(versions=options.versions), suspended)

    def open(self, user: str) -> tuple[SessionLease, SessionOf]:
        initialize = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25"}}
        lease = self.leases.of_session(Identity(user=user), initialize)
        session = SessionOf(user)
        lease.join(session, user=user, initialize=initialize)
        return lease, session

    def turn_until(self, condition: Callable[[], object]) -> None:
        for _ in range(3000):
            if condition():
                return
            self.loop.call_soon(lambda: None)
            self.loop.turn()
            os.sched_yield()
        raise AssertionError("what the test waits for did not happen")


@pytest.fixture(params=["per-session", "per-user"])
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    site = Site(tmp_path, request.param)
    yield site
    site.pool.end_at_once("ann", "the test is over")
    site.pool.stop("the test is over")
    while len(site.pool):
        site.now += 1  # what waits for a time need not wait for it
        site.loop.call_later(0.01, lambda: None)
        site.loop.turn()
    site.loop.close()


def test_a_process_ends_before_its_credential_once_no_call_needs_it(site: Site) -> None:
    lease, session = site.open("ann")
    site.turn_until(lambda: site.pool.spawns.value == 1)
    site.now += 3599
    site.leases.tick(site.now)
    assert (lease.ending, session.has_ended) == (False, False)
    site.now += 1
    site.leases.tick(site.now)
    assert (lease.ending, session.has_ended) == (True, True)


def test_a_process_with_a_running_call_goes_on_and_gets_no_new_session(site: Site) -> None:
    lease, session = site.open("ann")
    site.turn_until(lambda: site.pool.spawns.value == 1)
    replies: list[Any] = []

    class Reply:
        def send(self, message: Any) -> None:
            """Take no notice."""

        def finish(self, message: Any, outcome: Any = None) -> None:
            replies.append(message)

    call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "never"}}
    lease.backend.request(session, call, Reply())
    site.now += 3600
    site.leases.tick(site.now)
    assert (lease.ending, session.has_ended, replies) == (True, False, [])
    assert site.open("ann")[0] is not lease


def test_nothing_starts_for_a_user_in_the_name_of_another_or_of_none(site: Site) -> None:
    occupant = SessionOf("ann")
    for identity in (None, Identity(user="bob")):
        with pytest.raises(HttpError):
            site.pool.start(occupant, lambda _: None, identity)
    assert len(site.pool) == 0


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--no-identity",), "needs --require-identity"),
        (("--require-identity", "KEY", "--isolation", "shared"), "not with --isolation shared"),
        (("--require-identity", "KEY", "--warm-spares", "1"), "not with --warm-spares"),
    ],
)
def test_credentials_are_refused_with_what_would_give_them_to_others(options: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        parse_options(["--listen", "127.0.0.1:0", "--credentials-url", URL, *options, "--", *ECHO], os.environ)


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/x", "http://localhost/x", "http://auth.example/x", "http://127.0.0.1", "http://127.0.0.1/x?y",
        "http://127.0.0.1/x#y", "http://u@127.0.0.1/x", "http://999.0.0.1/x", "http://127.0.0.1:0/x",
        "http://127.0.0.1:65536/x", "http://[::1/x", "http://::1/x", "http://127.0.0.1/x y", "",
    ],
)  # fmt: skip
def test_an_address_that_would_have_to_be_looked_up_or_means_two_things_is_refused(url: str) -> None:
    arguments = ["--listen", "127.0.0.1:0", "--require-identity", "KEY", "--credentials-url", url, "--", *ECHO]
    with pytest.raises(UsageError, match="--credentials-url"):
        parse_options(arguments, os.environ)


@pytest.mark.parametrize("url", [URL, "http://[::1]:9000/credentials/notes", "http://10.0.0.1/x"])
def test_an_address_with_a_path_is_taken(url: str) -> None:
    arguments = ["--listen", "127.0.0.1:0", "--require-identity", "KEY", "--credentials-url", url, "--", *ECHO]
    assert parse_options(arguments, os.environ).credentials_urls == (url,)


def test_the_file_of_a_bridge_names_several_addresses(tmp_path: Path) -> None:
    urls = [URL, "http://10.0.0.1:9000/credentials/notes"]
    members = {"listen": "127.0.0.1:0", "require-identity": "KEY", "credentials-url": urls, "command": ["true"]}
    (tmp_path / "bridge.json").write_text(json.dumps(members))
    assert parse_options(["--config", str(tmp_path / "bridge.json")], os.environ).credentials_urls == tuple(urls)
