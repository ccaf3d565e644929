from __future__ import annotations

from typing import Any, cast

from stdio_bridge.detach import Headers, Response
from stdio_bridge.eras.hosts import Hosts
from stdio_bridge.eras.modern import ModernEra
from stdio_bridge.identity import Identity


class Socket:
    """The parts of a response that keeping it alive needs."""

    def __init__(self) -> None:
        self.started = self.finished = False
        self.data: list[bytes] = []
        self.on_disconnect: Any = None

    def start(self, headers: Headers, data: bytes) -> None:
        assert ("Content-Type", "text/event-stream") in headers
        self.started = True
        self.data.append(data)

    def write(self, data: bytes) -> None:
        self.data.append(data)


def test_a_silent_answer_becomes_a_stream_after_a_while_and_is_kept_alive() -> None:
    era = ModernEra(cast("Hosts", None))
    socket = Socket()
    era._open.hold(cast("Response", socket), Identity(user="u"), lambda: None)
    era.keep_alive()
    assert not socket.started
    era.keep_alive()
    assert socket.started
    era.keep_alive()
    assert all(data.startswith(b":") and data.endswith(b"\n\n") for data in socket.data)
    assert len(socket.data) >= 3


def test_an_answer_that_comes_in_time_is_left_alone() -> None:
    era = ModernEra(cast("Hosts", None))
    first, second = Socket(), Socket()
    era._open.hold(cast("Response", first), Identity(user="u"), lambda: None)
    era.keep_alive()
    era._open.release(cast("Response", first))
    era._open.hold(cast("Response", second), Identity(user="u"), lambda: None)
    era.keep_alive()
    assert not first.started
    assert not second.started
