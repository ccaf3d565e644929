"""Servers that start, and those that do not, seen from inside."""

from __future__ import annotations

import errno
import math
import os
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

import psutil
import pytest

from stdio_bridge.io.child_process import SpawnError
from stdio_bridge.io.event_loop import Loop
from stdio_bridge.io.metrics import Registry
from stdio_bridge.options import parse_options
from stdio_bridge.servers.pool import Server, ServerPool
from tests.stdio_bridge.running import ECHO

WAIT_SECONDS = 60


class RecordingPeer:
    """Who takes a server, and never makes room."""

    user = "someone"
    idle_since = None
    seconds_in_use = 0.0

    def evict(self) -> None:
        raise AssertionError("it is in use")


class Site:
    """Servers of which one may start at a time."""

    def __init__(self) -> None:
        self.loop = Loop()
        arguments = ["--listen", "127.0.0.1:0", "--no-identity", "--starts-at-once", "1", "--stop-timeout", "1"]
        options = parse_options([*arguments, "--", *ECHO], os.environ)
        self.pool = ServerPool(self.loop, options, Registry())
        self.ended: list[str] = []

    def start(self) -> Server:
        return self.pool.start(RecordingPeer(), self.ended.append)

    def turn_until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            assert time.monotonic() < deadline, "what the test waits for did not happen"
            self.loop.call_later(0.02, lambda: None)
            self.loop.turn()


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.pool.stop("the test is over")
    site.turn_until(lambda: not len(site.pool))
    site.loop.close()


def children() -> list[psutil.Process]:
    return psutil.Process().children()


def test_a_process_that_cannot_be_watched_is_ended_and_the_next_one_may_start(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_pid: int) -> NoReturn:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    others = children()
    with monkeypatch.context() as patched:
        patched.setattr(os, "pidfd_open", fail)
        site.start()
        site.turn_until(lambda: site.ended)
    assert site.ended == ["cannot be started"]
    assert children() == others
    assert site.start().running


@pytest.mark.parametrize("error", [SpawnError("no process"), RuntimeError("no reason that was thought of")])
def test_whatever_prevents_a_start_the_server_ends_and_the_next_one_may_start(
    site: Site, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> NoReturn:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(site.pool, "start_child", fail)
        site.start()
        site.start()
        site.turn_until(lambda: len(site.ended) == 2)
    assert site.ended == ["cannot be started"] * 2
    assert site.pool.failed_at > -math.inf
    assert len(site.pool) == 0
    assert site.start().running


def test_one_that_is_stopped_in_the_turn_in_which_it_could_start_starts_no_process(site: Site) -> None:
    others = children()
    permit = site.pool.start_limiter.ask(lambda: None, user="u")
    server = site.start()
    server.stop("nobody wants it")
    permit.release()
    site.turn_until(lambda: site.ended)
    assert children() == others
    assert site.start().running
