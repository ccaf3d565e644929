"""Requests about tools wait until the server has told which tools it has; the test is the server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from stdio_bridge.io.event_loop import Loop
from stdio_bridge.io.metrics import Registry
from stdio_bridge.protocol.calls import CallTimeouts
from stdio_bridge.protocol.tool_lock import Reason, parse_lock, render_lock
from stdio_bridge.servers.dispatcher import Dispatcher
from stdio_bridge.servers.tool_gate import HiddenTools, Listing, ToolGate
from tests.stdio_bridge.recording_peer import Message, RecordingPeer

PREFIX = "io.modelcontextprotocol/"
LOOK: Message = {"name": "look", "inputSchema": {"type": "object"}}
CHANGED = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
UNKNOWN = {"code": -32602, "message": "Unknown tool: look"}


class Conversation:
    """A dispatcher with a gate. Time is what the test says."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sent: list[Message] = []
        self.dropped: list[str] = []
        self.loop = Loop(lambda: self.now)
        self.registry = Registry()
        self.dispatcher = Dispatcher(
            self.sent.append,
            loop=self.loop,
            timeouts=CallTimeouts(idle=10, total=25),
            note_dropped=self.dropped.append,
            closed=lambda _: None,
        )
        lock = parse_lock(render_lock([LOOK]).encode())
        self.dispatcher.gate = ToolGate(self.dispatcher, HiddenTools(lock, self.loop, self.registry))
        self.client = RecordingPeer()
        self.dispatcher.join(self.client)

    def call(self, name: str = "look", *, meta: Message | None = None, client: RecordingPeer | None = None) -> Any:
        params = {"name": name, **({} if meta is None else {"_meta": meta})}
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        peer = client or self.client
        return self.dispatcher.request(peer, message, peer)

    def answer(self, *tools: Message, to: Message | None = None, **more: Any) -> None:
        """Answer the last request, or another, with a list."""
        asked = to or self.sent[-1]
        assert asked["method"] == "tools/list"
        self.dispatcher.receive({"jsonrpc": "2.0", "id": asked["id"], "result": {"tools": list(tools), **more}})
        self.turn()

    def turn(self) -> None:
        self.loop.stop()
        self.loop.turn()

    def methods(self) -> list[str]:
        return [message["method"] for message in self.sent]


@pytest.fixture
def talk() -> Iterator[Conversation]:
    talk = Conversation()
    yield talk
    talk.loop.close()


def modern_meta(**capabilities: Message) -> Message:
    return {PREFIX + "protocolVersion": "2026-07-28", PREFIX + "clientCapabilities": capabilities}


def test_a_call_waits_for_all_pages_of_the_tools(talk: Conversation) -> None:
    talk.call()
    assert talk.methods() == ["tools/list"]
    talk.answer(nextCursor="2")
    assert talk.sent[-1]["params"] == {"cursor": "2"}
    assert talk.methods() == ["tools/list", "tools/list"]
    talk.answer(LOOK)
    assert talk.methods()[2:] == ["tools/call"]
    talk.call()
    assert talk.methods()[3:] == ["tools/call"]


def test_calls_that_wait_share_one_question(talk: Conversation) -> None:
    talk.call()
    talk.call()
    assert talk.methods() == ["tools/list"]
    talk.answer(LOOK)
    assert talk.methods()[1:] == ["tools/call", "tools/call"]


def test_a_call_that_waits_is_refused_if_its_tool_is_not_there(talk: Conversation) -> None:
    talk.call()
    talk.answer()
    assert talk.methods() == ["tools/list"]
    assert talk.client.answers[-1]["error"] == UNKNOWN


def test_a_tool_that_is_not_locked_is_refused_without_asking(talk: Conversation) -> None:
    talk.call("wipe")
    assert talk.client.answers == []  # nothing is delivered before the request has been taken
    talk.turn()
    assert talk.client.answers[-1]["error"]["message"] == "Unknown tool: wipe"
    assert talk.sent == []


def test_after_a_change_the_server_is_asked_again(talk: Conversation) -> None:
    talk.call()
    talk.answer(LOOK)
    talk.dispatcher.receive(CHANGED)
    talk.call()
    assert talk.methods() == ["tools/list", "tools/call", "tools/list"]
    talk.answer({**LOOK, "description": "new"})
    assert talk.client.answers[-1]["error"] == UNKNOWN


def test_a_list_during_which_the_tools_change_is_asked_for_again(talk: Conversation) -> None:
    talk.call()
    talk.dispatcher.receive(CHANGED)
    talk.answer(LOOK)
    assert talk.methods() == ["tools/list", "tools/list"]
    talk.answer()
    assert talk.client.answers[-1]["error"] == UNKNOWN


def test_a_server_whose_tools_change_all_the_time_is_not_asked_for_ever(talk: Conversation) -> None:
    talk.call()
    for _ in range(1000):
        talk.dispatcher.receive(CHANGED)
        talk.answer(LOOK)
    assert talk.methods() == ["tools/list"] * 1000
    text = "the MCP server's tools cannot be compared: it lists too many, or changes them all the time"
    assert talk.client.answers[-1]["error"]["message"] == text


def test_the_client_of_a_call_that_waits_may_cancel_it(talk: Conversation) -> None:
    talk.call()
    cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
    talk.dispatcher.notify(talk.client, cancelled)
    assert talk.client.answers[-1]["error"]["message"] == "cancelled by the client"
    talk.answer(LOOK)
    assert talk.methods() == ["tools/list"]  # the server hears neither of the call nor of its end


def test_the_client_of_a_call_that_waits_may_leave(talk: Conversation) -> None:
    talk.call()
    talk.dispatcher.leave(talk.client)
    talk.answer(LOOK)
    assert talk.methods() == ["tools/list"]


def test_a_call_that_waits_too_long_fails(talk: Conversation) -> None:
    talk.call()
    assert talk.dispatcher.has_calls_of(talk.client)
    talk.now = 11
    talk.dispatcher.expire()
    talk.turn()
    assert talk.client.answers[-1]["error"]["message"] == "the server did not answer in time"
    assert not talk.dispatcher.has_calls_of(talk.client)
    assert "tools/call" not in talk.methods()


def test_a_call_that_waits_fails_once_if_the_server_ends(talk: Conversation) -> None:
    talk.call()
    talk.dispatcher.close("exited with status 3")
    talk.turn()
    assert [answer["error"]["message"] for answer in talk.client.answers] == ["the MCP server exited with status 3"]


def test_a_modern_server_is_asked_as_the_client_would_ask_it(talk: Conversation) -> None:
    talk.call(meta=modern_meta(sampling={}))
    assert talk.methods() == ["subscriptions/listen", "tools/list"]
    assert talk.sent[1]["params"]["_meta"][PREFIX + "clientCapabilities"] == {"sampling": {}}
    talk.answer(LOOK)
    talk.call(meta=modern_meta(sampling={}))
    assert talk.methods()[2:] == ["tools/call", "tools/call"]
    # It may have other tools for a client that can do something else.
    talk.call(meta=modern_meta())
    assert talk.methods()[4:] == ["tools/list"]
    talk.answer()
    assert talk.client.answers[-1]["error"] == UNKNOWN


def test_a_client_with_ever_new_capabilities_fills_no_memory(talk: Conversation) -> None:
    for number in range(100):
        talk.call(meta=modern_meta(experimental={str(number): {}}))
        talk.answer(LOOK)
        assert talk.methods()[-1] == "tools/call"
    asked = talk.methods().count("tools/list")
    talk.call(meta=modern_meta(experimental={"99": {}}))
    assert talk.methods().count("tools/list") == asked
    talk.call(meta=modern_meta(experimental={"0": {}}))
    assert talk.methods().count("tools/list") == asked + 1


def test_what_the_bridge_itself_asks_is_not_filtered(talk: Conversation) -> None:
    answers: list[Message] = []
    talk.dispatcher.ask("tools/list", {}, answers.append)
    talk.answer({"name": "new"}, {"name": "look", "inputSchema": {}})
    assert [tool["name"] for tool in answers[0]["result"]["tools"]] == ["new", "look"]


@pytest.mark.parametrize("tools", [None, 1, {"look": {}}, "look"])
def test_a_list_that_is_none_reaches_no_client(talk: Conversation, tools: object) -> None:
    talk.call()
    talk.answer(LOOK)
    message = {"jsonrpc": "2.0", "id": 2, "method": "tools/list", "params": {}}
    talk.dispatcher.request(talk.client, message, talk.client)
    talk.dispatcher.receive({"jsonrpc": "2.0", "id": talk.sent[-1]["id"], "result": {"tools": tools}})
    assert talk.client.answers[-1]["result"] == {"tools": []}


def test_the_number_of_hidden_tools_is_bounded_in_memory_and_still_right(talk: Conversation) -> None:
    talk.call()
    talk.answer(*({"name": f"tool {number}"} for number in range(10_000)))
    assert b'mcp_bridge_hidden_tools{reason="new"} 10000\n' in talk.registry.render()


@pytest.mark.parametrize(
    ("listed", "hidden"),
    [
        ([LOOK], {}),
        ([LOOK, LOOK], {"look": Reason.DUPLICATE}),
        ([LOOK, {**LOOK, "title": "Look"}], {"look": Reason.DUPLICATE}),
        ([{**LOOK, "title": "Look"}], {"look": Reason.CHANGED}),
        ([{**LOOK, "title": "Look"}, LOOK], {"look": Reason.DUPLICATE}),
        ([LOOK, {"name": "wipe"}], {"wipe": Reason.NEW}),
        ([{"name": "wipe"}, LOOK, {"name": "wipe"}, {"name": "wipe"}], {"wipe": Reason.NEW}),
    ],
)
def test_what_is_hidden_is_what_a_comparison_tells_the_operator(
    listed: list[Message], hidden: dict[str, Reason]
) -> None:
    lock = parse_lock(render_lock([LOOK]).encode())
    listing = Listing(lock=lock)
    for tool in listed:
        listing.add([tool])
    assert listing.reasons == {each.tool: each.reason for each in lock.compare(listed)} == hidden
    assert listing.allowed == {"look"} - hidden.keys()
    assert +listing.counts == Counter(hidden.values())


def test_hidden_tools_with_long_names_are_counted_and_not_kept_whole(talk: Conversation) -> None:
    long = "y" * 257
    listing = Listing(lock=parse_lock(render_lock([LOOK, {"name": long}]).encode()))
    listing.add([{"name": "x" * 256}, {"name": "x" * 257}, {"name": "x" * 100_000}, {"name": long, "title": "new"}])
    assert listing.new == {"x" * 256}
    assert listing.hidden == {long: Reason.CHANGED}
    assert listing.counts == {Reason.NEW: 3, Reason.CHANGED: 1}
    talk.call()
    talk.answer(LOOK, {"name": "x" * 257})
    assert talk.methods() == ["tools/list", "tools/call"]
    assert b'mcp_bridge_hidden_tools{reason="new"} 1\n' in talk.registry.render()


def test_a_process_keeps_of_the_hidden_tools_those_in_the_lock_alone(talk: Conversation) -> None:
    talk.call()
    gate = talk.dispatcher.gate
    assert isinstance(gate, ToolGate)
    listing = Listing(lock=parse_lock(render_lock([LOOK]).encode()))
    listing.add([LOOK, LOOK, {"name": "new"}])
    gate.listed("", listing)
    assert (listing.hidden, listing.new) == ({"look": Reason.DUPLICATE}, set())
    assert listing.counts == {Reason.NEW: 1, Reason.DUPLICATE: 1}
    talk.turn()
    assert talk.client.answers[-1]["error"] == UNKNOWN


def test_a_list_of_too_many_bytes_is_not_read_to_its_end(talk: Conversation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stdio_bridge.servers.tool_gate._MAX_BYTES", 3000)
    talk.call()
    for page in range(2):
        talk.answer(LOOK if page == 0 else {"name": "x"}, {"name": "y" * 1000}, nextCursor="more")
    talk.answer({"name": "y" * 500})
    assert talk.methods() == ["tools/list"] * 3 + ["tools/call"]
    talk.dispatcher.receive(CHANGED)
    talk.call()
    for page in range(3):
        talk.answer(LOOK if page == 0 else {"name": "x"}, {"name": "y" * 1000}, nextCursor="more")
    assert talk.methods()[4:] == ["tools/list"] * 3
    text = "the MCP server's tools cannot be compared: it lists too many, or changes them all the time"
    assert talk.client.answers[-1]["error"]["message"] == text


def test_requests_that_wait_count_as_input_that_the_server_has_not_read(talk: Conversation) -> None:
    gate = talk.dispatcher.gate
    assert gate is not None
    for _ in range(2):
        talk.dispatcher.request(
            talk.client,
            {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "look", "arguments": "x" * 1000}},
            talk.client,
        )
    assert 2000 < gate.held_bytes < 2300
    cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
    talk.dispatcher.notify(talk.client, cancelled)
    assert gate.held_bytes == 0
    talk.call()
    assert gate.held_bytes > 0
    talk.answer(LOOK)
    assert gate.held_bytes == 0
    talk.dispatcher.receive(CHANGED)
    talk.call()
    talk.dispatcher.close("exited with status 3")
    assert gate.held_bytes == 0
