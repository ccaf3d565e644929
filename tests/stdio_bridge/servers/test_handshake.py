"""How a server's era is found out, with a test in the place of the server, the clock and the loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from stdio_bridge.io.event_loop import Loop
from stdio_bridge.protocol.calls import CallTimeouts
from stdio_bridge.servers.dispatcher import Dispatcher
from stdio_bridge.servers.handshake import (
    TRANSITIONS,
    EraCache,
    Failed,
    Gone,
    Handshake,
    Initialized,
    Modern,
    Outcome,
    ServerEra,
    State,
    own_initialize,
)

Message = dict[str, Any]

DISCOVERED = {"supportedVersions": ["2026-07-28"], "capabilities": {}}
INITIALIZED = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "s", "version": "1"}}


class Start:
    """A server that has just been started, and what the bridge makes of it."""

    def __init__(self, era: ServerEra | None = None) -> None:
        self.sent: list[Message] = []
        self.timers: list[Callable[[], None]] = []
        self.opened: list[Outcome] = []
        self.era_cache = EraCache(era=era)
        self.dispatcher = Dispatcher(
            self.sent.append,
            loop=cast("Loop", self),
            timeouts=CallTimeouts(idle=1000, total=1000),
            note_dropped=lambda _: None,
            closed=lambda _: None,
        )
        self.begin()

    def begin(self) -> None:
        self.handshake = Handshake(
            self.dispatcher,
            cast("Loop", self),
            self.era_cache,
            own_initialize(None, self.era_cache.versions),
            self.opened.append,
        )
        self.handshake.begin_for_modern()

    def clock(self) -> float:
        return 0.0

    def call_later(self, seconds: float, action: Callable[[], None]) -> None:
        self.timers.append(action)

    def time_out(self) -> None:
        for action in self.timers:
            action()

    @property
    def methods(self) -> list[str]:
        return [message["method"] for message in self.sent]

    def answer(self, method: str, **members: Any) -> None:
        (request,) = [message for message in self.sent if message["method"] == method]
        self.dispatcher.receive({"jsonrpc": "2.0", "id": request["id"], **members})


def error(code: int, data: object = None) -> Message:
    return {"code": code, "message": "no", "data": data}


def test_a_server_that_tells_of_itself_is_modern() -> None:
    start = Start()
    start.answer("server/discover", result=DISCOVERED)
    assert start.opened == [Modern(discovered=DISCOVERED)]
    assert start.era_cache.modern is True
    start.time_out()
    assert start.methods == ["server/discover"]


@pytest.mark.parametrize("code", [-32601, -32602, -32600, -32000, -32603, 0, -32020, -32021])
def test_any_other_error_means_legacy(code: int) -> None:
    start = Start()
    start.answer("server/discover", error=error(code))
    start.answer("initialize", result=INITIALIZED)
    assert start.opened == [Initialized(result=INITIALIZED)]
    assert start.era_cache.era is ServerEra.LEGACY
    assert start.methods == ["server/discover", "initialize", "notifications/initialized"]


@pytest.mark.parametrize(
    "result",
    [{}, {"supportedVersions": ["2025-11-25"]}, {"supportedVersions": "2026-07-28"}, {"supportedVersions": [{}]}],
)
def test_an_answer_that_names_no_version_of_ours_means_legacy(result: Message) -> None:
    start = Start()
    start.answer("server/discover", result=result)
    assert start.methods == ["server/discover", "initialize"]


def test_a_refusal_of_the_version_that_names_another_of_ours_means_modern() -> None:
    start = Start()
    start.answer("server/discover", error=error(-32022, {"supported": ["2026-07-28"]}))
    assert start.opened == [Modern(discovered=None)]


@pytest.mark.parametrize("data", [None, {}, {"supported": ["2027-01-01"]}, {"supported": None}, []])
def test_a_refusal_that_names_none_of_ours_is_tried_as_legacy(data: object) -> None:
    start = Start()
    start.answer("server/discover", error=error(-32022, data))
    assert start.methods == ["server/discover", "initialize"]


def test_a_server_that_stays_silent_is_legacy() -> None:
    start = Start()
    start.time_out()
    start.answer("initialize", result=INITIALIZED)
    assert start.opened == [Initialized(result=INITIALIZED)]
    assert start.era_cache.era is ServerEra.LEGACY


def test_a_modern_server_that_is_slow_to_start_is_still_taken_for_one() -> None:
    start = Start()
    start.time_out()
    start.answer("server/discover", result=DISCOVERED)
    start.answer("initialize", error=error(-32022, {"supported": ["2026-07-28"]}))
    assert start.opened == [Modern(discovered=DISCOVERED)]
    assert start.era_cache.modern is True


def test_a_refused_initialize_waits_for_the_answer_about_the_era() -> None:
    start = Start()
    start.time_out()
    start.answer("initialize", error=error(-32601))
    assert start.opened == []
    start.answer("server/discover", result=DISCOVERED)
    assert start.opened == [Modern(discovered=DISCOVERED)]


def test_a_server_that_refuses_both_has_failed_and_nothing_is_learned() -> None:
    start = Start()
    start.answer("server/discover", error=error(-32601))
    start.answer("initialize", error=error(-32603))
    (opened,) = start.opened
    assert isinstance(opened, Failed)
    assert opened.message["error"]["code"] == -32603
    assert start.era_cache.era is None


def test_a_server_that_ends_over_the_question_for_its_era_has_not_failed_yet() -> None:
    start = Start()
    start.dispatcher.close("exited with status 3")
    assert start.opened == [Gone()]
    assert start.methods == ["server/discover"]
    assert start.era_cache.era is None


@pytest.mark.parametrize("silent", [True, False])
def test_a_server_that_ends_over_initialize_has_failed_and_says_why(silent: bool) -> None:
    start = Start()
    if silent:
        start.time_out()
    else:
        start.answer("server/discover", error=error(-32601))
    start.dispatcher.close("exited with status 3")
    (opened,) = start.opened
    assert isinstance(opened, Failed)
    assert "exited with status 3" in opened.message["error"]["message"]


def test_what_is_known_is_not_asked_again() -> None:
    assert Start(ServerEra.LEGACY).methods == ["initialize"]
    for era in (ServerEra.MODERN, ServerEra.DUAL):
        start = Start(era)
        assert start.methods == []
        assert start.opened == [Modern(discovered=None)]


def test_what_was_learned_first_stays() -> None:
    era_cache = EraCache()
    era_cache.learn(modern=False)
    era_cache.learn(modern=True)
    assert era_cache.era is ServerEra.LEGACY


class SessionStart(Start):
    """A server that has just been started for a session, which hears what comes before the answer."""

    def begin(self) -> None:
        initialize = {"jsonrpc": "2.0", "id": "mine", "method": "initialize", "params": {}}
        self.before: list[Message] = []
        self.handshake = Handshake(
            self.dispatcher,
            cast("Loop", self),
            self.era_cache,
            initialize,
            self.opened.append,
            before=self.before.append,
        )
        self.handshake.begin_for_legacy()


def test_a_session_initializes_the_server_itself_and_nothing_is_learned() -> None:
    start = SessionStart()
    start.dispatcher.receive({"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "starting"}})
    start.answer("initialize", result=INITIALIZED)
    assert start.opened == [Initialized(result=INITIALIZED)]
    assert [message["params"]["data"] for message in start.before] == ["starting"]
    assert start.methods == ["initialize"]
    assert start.era_cache.era is None


def test_a_server_that_refuses_a_session_and_tells_of_itself_is_modern_only() -> None:
    start = SessionStart()
    start.answer("initialize", error=error(-32601))
    start.answer("server/discover", result=DISCOVERED)
    assert start.opened == [Modern(discovered=DISCOVERED)]
    assert start.era_cache.era is ServerEra.MODERN


@pytest.mark.parametrize("answer", [{"error": {"code": -32022, "data": {"supported": ["2026-07-28"]}}}, {"result": {}}])
def test_a_session_needs_the_servers_account_of_itself(answer: Message) -> None:
    start = SessionStart()
    start.answer("initialize", error=error(-32602))
    start.answer("server/discover", **answer)
    (opened,) = start.opened
    assert isinstance(opened, Failed)
    assert (opened.message["id"], opened.message["error"]["code"]) == ("mine", -32602)
    assert start.era_cache.era is None


def test_a_session_asks_a_server_that_is_known_in_one_way_only() -> None:
    modern = SessionStart(ServerEra.MODERN)
    assert modern.methods == ["server/discover"]
    modern.answer("server/discover", error=error(-32601))
    legacy = SessionStart(ServerEra.LEGACY)
    legacy.answer("initialize", error=error(-32022, {"supported": ["2026-07-28"]}))
    assert legacy.methods == ["initialize"]
    for start in (modern, legacy):
        assert [type(opened) for opened in start.opened] == [Failed]


def test_every_state_of_a_handshake_can_be_reached_and_left() -> None:
    begun = {State.DISCOVERING, State.INITIALIZING, State.INITIALIZING_FIRST, State.INITIALIZING_ONLY}
    reached = begun | {following for row in TRANSITIONS.values() for following in row.values()}
    assert reached == set(State) - {State.NEW}
    assert set(TRANSITIONS) == set(State) - {State.NEW, State.MODERN, State.INITIALIZED, State.FAILED, State.GONE}
