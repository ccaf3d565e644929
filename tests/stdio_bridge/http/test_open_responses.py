from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from stdio_bridge.http.exchange import Response
from stdio_bridge.http.identity import Identity
from stdio_bridge.http.open_responses import OpenResponses


class Socket:
    """The parts of a response that keeping it alive needs."""

    def __init__(self) -> None:
        self.started = self.finished = False
        self.data: list[bytes] = []
        self.on_disconnect: Any = None

    def begin(self) -> None:
        self.started = True

    def write(self, data: bytes) -> None:
        self.data.append(data)


def hold(responses: OpenResponses, socket: Socket, begin: Callable[[], object] | None) -> Response:
    response = cast("Response", socket)
    responses.hold(response, Identity(user="u"), lambda: None, begin)
    return response


def test_a_silent_answer_becomes_a_stream_after_a_while_and_is_kept_alive() -> None:
    responses, socket = OpenResponses(), Socket()
    hold(responses, socket, socket.begin)
    responses.keep_alive()
    assert not socket.started
    responses.keep_alive()
    assert socket.started
    responses.keep_alive()
    assert socket.data
    assert all(data.startswith(b":") and data.endswith(b"\n\n") for data in socket.data)


def test_an_answer_that_comes_in_time_is_left_alone() -> None:
    responses, first, second = OpenResponses(), Socket(), Socket()
    response = hold(responses, first, first.begin)
    responses.keep_alive()
    responses.release(response)
    hold(responses, second, second.begin)
    responses.keep_alive()
    assert not first.started
    assert not second.started


def test_one_that_cannot_be_a_stream_never_becomes_one() -> None:
    responses, socket = OpenResponses(), Socket()
    hold(responses, socket, None)
    for _ in range(3):
        responses.keep_alive()
    assert not socket.started
    assert socket.data == []


def test_a_response_that_was_finished_elsewhere_is_told_nothing_more() -> None:
    responses, socket = OpenResponses(), Socket()
    gone: list[bool] = []
    for act in (
        responses.keep_alive,
        lambda: responses.end(lambda _: True, "the grant was revoked"),
        lambda: responses.end_streams(lambda _: True),
    ):
        responses.hold(cast("Response", socket), Identity(user="u"), lambda: gone.append(True))
        socket.started = socket.finished = True
        act()
        assert (socket.data, gone, len(responses)) == ([], [], 0)
