"""A legacy session in front of a modern server: what such a session can do is made of requests that stand alone."""

from __future__ import annotations

from stdio_bridge.io.event_loop import Loop, Timer
from stdio_bridge.protocol import jsonrpc
from stdio_bridge.protocol.calls import Call, Purpose
from stdio_bridge.protocol.jsonrpc import Message, RequestId
from stdio_bridge.protocol.mcp import CLIENT_CAPABILITIES, LISTEN, LOG_LEVEL, LOG_LEVELS
from stdio_bridge.protocol.recipients import MAX_URI_BYTES, TOO_MANY_SUBSCRIPTIONS, size_of
from stdio_bridge.protocol.request_metadata import missing_capabilities
from stdio_bridge.protocol.to_modern import (
    answer_from,
    change_from,
    client_meta,
    input_response,
    list_changes_of,
    server_request,
)

from .backend import Client, Reply
from .dispatcher import Dispatcher

_MAX_ROUNDS = 50


class EmulatedSession:
    """One legacy client of a modern server: what it has declared, set and subscribed to."""

    def __init__(
        self,
        client: Client,
        dispatcher: Dispatcher,
        loop: Loop,
        *,
        initialize: Message,
        discovered: Message,
        input_seconds: float,
    ) -> None:
        self.client = client
        self.dispatcher = dispatcher
        self.loop = loop
        self.input_seconds = input_seconds
        self.asked: dict[str, InputRequiredLoop] = {}
        self.input_loops: dict[InputRequiredLoop, None] = {}
        self._discovered = discovered
        self._meta = client_meta(initialize)
        self._subscriptions: dict[str, Call] = {}
        self._next_id = 0

    @property
    def is_asking(self) -> bool:
        """Whether the client is to answer something first."""
        return bool(self.asked)

    def new_id(self) -> str:
        """Return an id for a request to the client; the connection's own look different."""
        self._next_id += 1
        return f"i{self._next_id}"

    def lacks(self, request: Message) -> Message:
        """What the client would have had to declare to be asked this."""
        return missing_capabilities(request, self._meta[CLIENT_CAPABILITIES])

    # What the client does

    def subscribe(self) -> None:
        """Hear of the lists that may change."""
        capabilities = self._discovered.get("capabilities")
        wanted = list_changes_of(capabilities) if isinstance(capabilities, dict) else {}
        if wanted:
            self._listen(wanted)

    def request(self, message: Message, reply: Reply) -> None:
        """Answer a request, or have the server answer it."""
        match message["method"]:
            case "ping":
                reply.finish(jsonrpc.result(message["id"], {}))
            case "logging/setLevel":
                self._set_level(message, reply)
            case "resources/subscribe" | "resources/unsubscribe":
                self._watch(message, reply)
            case _:
                InputRequiredLoop(self, message, reply).begin(self._meta)

    def _set_level(self, message: Message, reply: Reply) -> None:
        level = jsonrpc.params_of(message).get("level")
        if level in LOG_LEVELS:
            self._meta[LOG_LEVEL] = level
            reply.finish(jsonrpc.result(message["id"], {}))
        else:
            text = f"level must be one of {', '.join(LOG_LEVELS)}"
            reply.finish(jsonrpc.error(message["id"], jsonrpc.INVALID_PARAMS, text))

    def _watch(self, message: Message, reply: Reply) -> None:
        uri = jsonrpc.params_of(message).get("uri")
        if not isinstance(uri, str):
            reply.finish(jsonrpc.error(message["id"], jsonrpc.INVALID_PARAMS, "params.uri must be a string"))
            return
        known = self._subscriptions.pop(uri, None)
        if known is not None:
            self.dispatcher.cancel(known, "the client has unsubscribed")
        if message["method"] == "resources/subscribe":
            if sum(map(size_of, self._subscriptions)) + size_of(uri) > MAX_URI_BYTES:
                reply.finish(jsonrpc.error(message["id"], jsonrpc.SERVER_ERROR, TOO_MANY_SUBSCRIPTIONS))
                return
            self._subscriptions[uri] = self._listen({"resourceSubscriptions": [uri]})
        reply.finish(jsonrpc.result(message["id"], {}))

    def _listen(self, wanted: Message) -> Call:
        params = {"notifications": wanted, "_meta": self._meta}
        message = {"jsonrpc": "2.0", "id": 0, "method": LISTEN, "params": params}
        return self.dispatcher.request(self, message, self, Purpose.STREAM)

    def notify(self, message: Message) -> None:
        """Take a notification. Cancelling is the only one that a modern server knows."""
        if message["method"] != "notifications/cancelled":
            return
        request_id = jsonrpc.params_of(message).get("requestId")
        for input_loop in {asking for asking in self.asked.values() if asking.request_id == request_id}:
            input_loop.fail("cancelled by the client")
        self.dispatcher.notify(self.client, message)

    def respond(self, message: Message) -> None:
        """Take an answer to something that the client was asked."""
        request_id = message.get("id")
        input_loop = self.asked.pop(request_id, None) if isinstance(request_id, str) else None
        if input_loop is not None:
            input_loop.answered(str(request_id), message)

    def lose(self, reply: Reply) -> None:
        """Note that nobody hears that reply any more."""
        for input_loop in self.input_loops:
            input_loop.lose(reply)

    def unheard(self, request_id: str, reason: str) -> None:
        """Fail the request whose question did not reach the client: the server is not asked again."""
        input_loop = self.asked.get(request_id)
        if input_loop is not None:
            input_loop.fail(reason)

    def end(self) -> None:
        """The client has left."""
        self.fail("the client has left")
        self.dispatcher.leave(self)

    def fail(self, reason: str) -> None:
        """Fail each request that waits for the client's answer to a question."""
        for input_loop in set(self.asked.values()):
            input_loop.fail(reason)

    # What its subscriptions bring

    def receive(self, message: Message) -> None:
        """Nothing comes to a subscription but by its name."""

    def send(self, message: Message) -> None:
        """Pass a change on; the acknowledgement is nothing to a legacy client."""
        if message["method"] != "notifications/subscriptions/acknowledged":
            self.client.receive(change_from(message))

    def finish(self, message: Message) -> None:
        """The server keeps a subscription no longer, or never did."""


class InputRequiredLoop:
    """A request of a legacy client, put to the server again for each InputRequiredResult."""

    def __init__(self, session: EmulatedSession, message: Message, reply: Reply) -> None:
        self._session = session
        self._message = message
        self._reply = reply
        self._rounds = 0
        self._wanted: dict[str, tuple[str, Message]] = {}
        self._given: Message = {}
        self._state: object = None
        self._timer: Timer | None = None
        self._asking = False
        self._over = False
        self._lost = False

    @property
    def request_id(self) -> RequestId:
        """The client's id of the request."""
        request_id: RequestId = self._message["id"]
        return request_id

    def begin(self, meta: Message) -> None:
        """Put the request to the server."""
        self._message = jsonrpc.with_meta(self._message, **meta)
        self._session.input_loops[self] = None
        self._put({})

    def lose(self, reply: Reply) -> None:
        """Note that nobody hears that reply any more: if it is this one's, the request is put no second time for it."""
        self._lost = self._lost or reply is self._reply

    def _put(self, more: Message) -> None:
        message = {**self._message, "params": {**jsonrpc.params_of(self._message), **more}}
        self._session.dispatcher.request(self._session.client, message, self)

    def send(self, message: Message) -> None:
        """Pass on what comes before the answer; a modern server asks nothing this way."""
        if "id" in message:
            self._session.dispatcher.refuse(self._session.client, message, "2026-07-28 has no requests from the server")
        else:
            self._reply.send(message)

    def finish(self, message: Message) -> None:
        """Pass the answer on, or ask the client for what the server needs."""
        result = message.get("result")
        if isinstance(result, dict) and result.get("resultType") == "input_required":
            self._ask(result)
        else:
            self._end(answer_from(message))

    def _end(self, answer: Message) -> None:
        self._over = True
        self._session.input_loops.pop(self, None)
        self._reply.finish(answer)

    def _ask(self, result: Message) -> None:
        self._rounds += 1
        wanted = result.get("inputRequests", {})
        if not isinstance(wanted, dict) or not all(_is_request(asked) for asked in wanted.values()):
            self.fail("the MCP server asked for input in a way that is not MCP")
        elif self._lost and not wanted:
            self.fail("the client has gone")
        elif self._rounds > _MAX_ROUNDS:
            self.fail("the MCP server asks for input without end")
        elif missing := [name for asked in wanted.values() for name in self._session.lacks(asked)]:
            self.fail(f"the MCP server needs what this client has not declared: {', '.join(missing)}")
        else:
            self._state = result.get("requestState")
            self._given = {}
            self._wanted = {self._session.new_id(): (key, asked) for key, asked in wanted.items()}
            self._session.asked.update(dict.fromkeys(self._wanted, self))
            self._timer = self._session.loop.call_later(self._session.input_seconds, self._expire)
            self._asking = True  # one may be answered at once, in its client's stead
            for request_id, (_, asked) in list(self._wanted.items()):
                if request_id in self._wanted:
                    self._reply.send(server_request(request_id, asked))
            self._asking = False
            self._go_on()

    def answered(self, request_id: str, answer: Message) -> None:
        """The client has answered one of the questions."""
        key, asked = self._wanted.pop(request_id)
        response = input_response(asked, answer)
        if response is None:
            self.fail(f"the client did not answer {asked['method']}")
        else:
            self._given[key] = response
            self._go_on()

    def _go_on(self) -> None:
        if self._wanted or self._asking or self._over:
            return
        self._stop_timer()
        state = {} if self._state is None else {"requestState": self._state}
        self._put({"inputResponses": self._given, **state} if self._given else state)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _expire(self) -> None:
        self.fail("the client did not answer in time")

    def fail(self, reason: str) -> None:
        """Give up waiting for the client."""
        if self._over:
            return
        self._stop_timer()
        for request_id in self._wanted:
            self._session.asked.pop(request_id, None)
        self._wanted = {}
        self._end(jsonrpc.error(self.request_id, jsonrpc.INTERNAL_ERROR, reason))


def _is_request(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("method"), str)
