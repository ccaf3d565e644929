"""Legacy sessions at a modern server: the bridge emulates each session, and sends requests that stand alone."""

from __future__ import annotations

import enum

from stdio_bridge.io.event_loop import Loop, Timer
from stdio_bridge.protocol import jsonrpc, to_legacy, to_modern
from stdio_bridge.protocol.calls import Call, CallOutcome, Purpose
from stdio_bridge.protocol.jsonrpc import Message, RequestId
from stdio_bridge.protocol.mcp import CLIENT_CAPABILITIES, LISTEN, LOG_LEVEL, LOG_LEVELS
from stdio_bridge.protocol.recipients import MAX_URI_BYTES, TOO_MANY_SUBSCRIPTIONS, declared_by, size_of
from stdio_bridge.protocol.request_metadata import missing_capabilities
from stdio_bridge.protocol.subscription_filter import all_list_changes

from .backend import Client, Reply, SessionClient
from .dispatcher import Dispatcher

_MAX_ROUNDS = 50


class ModernForLegacy:
    """Legacy sessions at a modern server: an emulated session for each client."""

    def __init__(self, dispatcher: Dispatcher, loop: Loop, discovered: Message, *, input_seconds: float) -> None:
        self._dispatcher = dispatcher
        self._loop = loop
        self._discovered = discovered
        self._input_seconds = input_seconds
        self._sessions: dict[SessionClient, EmulatedSession] = {}

    def join(self, client: SessionClient, *, user: str, initialize: Message) -> None:
        """Add a client, so that it gets messages that name no call. `initialize` is the client's request."""
        self._dispatcher.join(client, user=user, capabilities=declared_by(initialize))
        self.take_over(client, initialize)

    def take_over(self, client: SessionClient, initialize: Message) -> None:
        """Serve a client that joined before the server was known to be modern."""
        session = self._sessions[client] = EmulatedSession(
            client,
            self._dispatcher,
            self._loop,
            initialize=initialize,
            discovered=self._discovered,
            input_seconds=self._input_seconds,
        )
        session.subscribe()

    def leave(self, client: SessionClient) -> None:
        """Remove a client, and cancel its calls."""
        session = self._sessions.pop(client, None)
        if session is not None:
            session.end()
        self._dispatcher.leave(client)

    def request(self, client: SessionClient, message: Message, reply: Reply) -> None:
        """Answer a request, or pass it on to the server."""
        self._sessions[client].request(message, reply)

    def notify(self, client: SessionClient, message: Message) -> None:
        """Take a client's notification."""
        self._sessions[client].notify(message)

    def respond(self, client: SessionClient, message: Message) -> None:
        """Take a client's answer."""
        self._sessions[client].respond(message)

    def unheard(self, client: SessionClient, request: Message, reason: str) -> None:
        """Fail the call that waits for the answer to a request which did not reach the client."""
        if (session := self._sessions.get(client)) is not None:
            session.unheard(request["id"], reason)

    def lose(self, client: SessionClient, reply: Reply) -> None:
        """Note that this reply can no longer reach the client."""
        if (session := self._sessions.get(client)) is not None:
            session.lose(reply)

    def has_calls_of(self, client: SessionClient) -> bool:
        """Whether a call of this client is in flight."""
        session = self._sessions.get(client)
        return self._dispatcher.has_calls_of(client) or (session is not None and session.is_asking)

    def waits_for(self, client: SessionClient) -> bool:
        """Whether a request of the server to this client is unanswered."""
        session = self._sessions.get(client)
        return self._dispatcher.waits_for(client) or (session is not None and session.is_asking)

    def fail(self, reason: str) -> None:
        """The server is gone. Fail the calls that wait for their client; the connection fails those in flight."""
        for session in list(self._sessions.values()):
            session.fail(f"the MCP server {reason}", CallOutcome.SERVER_EXIT)


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
        self.loops: dict[InputRequiredLoop, None] = {}
        self._discovered = discovered
        self._meta = to_modern.client_meta(initialize)
        self._subscriptions: dict[str, Call] = {}
        self._next_id = 0

    @property
    def is_asking(self) -> bool:
        """Whether the server waits for an answer of the client."""
        return bool(self.asked)

    def new_id(self) -> str:
        """Return an id for a request to the client, which differs from those of the connection."""
        self._next_id += 1
        return f"i{self._next_id}"

    def lacks(self, request: Message) -> Message:
        """The capabilities that this request needs, and that the client has not declared."""
        return missing_capabilities(request, self._meta[CLIENT_CAPABILITIES])

    # What the client does

    def subscribe(self) -> None:
        """Subscribe to the changes of all lists."""
        capabilities = self._discovered.get("capabilities")
        wanted = all_list_changes(capabilities) if isinstance(capabilities, dict) else {}
        if wanted:
            self._listen(wanted)

    def request(self, message: Message, reply: Reply) -> None:
        """Answer a request, or pass it on to the server."""
        match message["method"]:
            case "ping":
                reply.finish(jsonrpc.result(message["id"], {}))
            case "logging/setLevel":
                self._set_level(message, reply)
            case "resources/subscribe" | "resources/unsubscribe":
                self._change_subscription(message, reply)
            case _:
                self.loops[InputRequiredLoop(self, message, reply, self._meta)] = None

    def _set_level(self, message: Message, reply: Reply) -> None:
        level = jsonrpc.params_of(message).get("level")
        if level in LOG_LEVELS:
            self._meta[LOG_LEVEL] = level
            reply.finish(jsonrpc.result(message["id"], {}))
        else:
            text = f"level must be one of {', '.join(LOG_LEVELS)}"
            reply.finish(jsonrpc.error(message["id"], jsonrpc.INVALID_PARAMS, text))

    def _change_subscription(self, message: Message, reply: Reply) -> None:
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
        """Take a notification. A modern server knows only cancellations."""
        if message["method"] != "notifications/cancelled":
            return
        request_id = jsonrpc.params_of(message).get("requestId")
        for input_loop in {asking for asking in self.asked.values() if asking.request_id == request_id}:
            input_loop.fail("cancelled by the client", CallOutcome.CANCELLED)
        self.dispatcher.notify(self.client, message)

    def respond(self, message: Message) -> None:
        """Take the client's answer to a request of the server."""
        request_id = message.get("id")
        input_loop = self.asked.pop(request_id, None) if isinstance(request_id, str) else None
        if input_loop is not None:
            input_loop.answered(str(request_id), message)

    def forget(self, ended: InputRequiredLoop) -> None:
        """Forget a request that is over."""
        self.loops.pop(ended, None)

    def lose(self, reply: Reply) -> None:
        """Note that this reply can no longer reach the client."""
        for input_loop in self.loops:
            input_loop.lose(reply)

    def unheard(self, request_id: str, reason: str) -> None:
        """Fail the call that waits for the answer to this request, which did not reach the client."""
        input_loop = self.asked.get(request_id)
        if input_loop is not None:
            input_loop.fail(reason)

    def end(self) -> None:
        """The client has left."""
        self.fail("the client has left", CallOutcome.CLIENT_GONE)
        self.dispatcher.leave(self)

    def fail(self, reason: str, outcome: CallOutcome) -> None:
        """Fail each call that waits for an answer of the client."""
        for input_loop in set(self.asked.values()):
            input_loop.fail(reason, outcome)

    # The messages of its subscriptions

    def receive(self, message: Message) -> None:
        """Ignore messages that name no subscription."""

    def send(self, message: Message) -> None:
        """Pass changes on, but not the acknowledgement, which legacy clients do not know."""
        if message["method"] != "notifications/subscriptions/acknowledged":
            self.client.receive(to_legacy.change(message))

    def finish(self, message: Message, outcome: CallOutcome | None = None) -> None:
        """Ignore the end of a subscription, as there is no message that tells a legacy client."""


class State(enum.Enum):
    """The state of a client's request."""

    AT_SERVER = enum.auto()
    """The server works on it."""
    WAITING = enum.auto()
    """It waits for input of the client, which the server needs."""
    OVER = enum.auto()


class Input(enum.Enum):
    """What happens to a request."""

    INPUT_REQUIRED = enum.auto()
    """The server needs input first."""
    GIVEN = enum.auto()
    """The client has given all input."""
    END = enum.auto()
    """There is an answer, or there will be none."""


TRANSITIONS: dict[State, dict[Input, State]] = {
    State.AT_SERVER: {Input.INPUT_REQUIRED: State.WAITING, Input.END: State.OVER},
    State.WAITING: {Input.GIVEN: State.AT_SERVER, Input.END: State.OVER},
    State.OVER: {},
}


class InputRequiredLoop:
    """A request of a legacy client, sent to the server again after each InputRequiredResult."""

    def __init__(self, session: EmulatedSession, message: Message, reply: Reply, meta: Message) -> None:
        """Send the request to the server."""
        self._session = session
        self._message = jsonrpc.with_meta(message, **meta)
        self._reply = reply
        self._state = State.AT_SERVER
        self._rounds = 0
        self._wanted: dict[str, tuple[str, Message]] = {}
        self._given: Message = {}
        self._request_state: object = None
        self._timer: Timer | None = None
        self._is_lost = False
        self._send({})

    @property
    def request_id(self) -> RequestId:
        """The client's id of the request."""
        request_id: RequestId = self._message["id"]
        return request_id

    def _take(self, what: Input) -> bool:
        """Change the state. Returns False if the input comes too late."""
        following = TRANSITIONS[self._state].get(what)
        if following is not None:
            self._state = following
        return following is not None

    def lose(self, reply: Reply) -> None:
        """Note that this reply can no longer reach the client, so that its request is not sent again."""
        self._is_lost = self._is_lost or reply is self._reply

    def _send(self, parameters: Message) -> None:
        message = {**self._message, "params": {**jsonrpc.params_of(self._message), **parameters}}
        self._session.dispatcher.request(self._session.client, message, self)

    def send(self, message: Message) -> None:
        """Pass on a message before the answer; a modern server sends no requests."""
        if "id" in message:
            self._session.dispatcher.refuse(self._session.client, message, "servers send no requests in 2026-07-28")
        else:
            self._reply.send(message)

    def finish(self, message: Message, outcome: CallOutcome | None = None) -> None:
        """Pass the answer on, or ask the client for what the server needs."""
        result = message.get("result")
        if isinstance(result, dict) and result.get("resultType") == "input_required":
            self._ask(result)
        else:
            self._end(to_legacy.answer(message), outcome)

    def _end(self, answer: Message, outcome: CallOutcome | None) -> None:
        if self._take(Input.END):
            self._session.forget(self)
            self._reply.finish(answer, outcome)

    def _ask(self, result: Message) -> None:
        self._rounds += 1
        wanted = result.get("inputRequests", {})
        if not isinstance(wanted, dict) or not all(_is_request(asked) for asked in wanted.values()):
            self.fail("the MCP server asked for input, and its inputRequests are not valid")
        elif self._is_lost and not wanted:
            self.fail("the client has gone", CallOutcome.CLIENT_GONE)
        elif self._rounds > _MAX_ROUNDS:
            self.fail("the MCP server asked for input too many times")
        elif missing := [name for asked in wanted.values() for name in self._session.lacks(asked)]:
            self.fail(f"the MCP server needs a capability that the client has not declared, for: {', '.join(missing)}")
        else:
            self._take(Input.INPUT_REQUIRED)
            self._request_state = result.get("requestState")
            self._given = {}
            self._wanted = {self._session.new_id(): (key, asked) for key, asked in wanted.items()}
            self._session.asked.update(dict.fromkeys(self._wanted, self))
            self._timer = self._session.loop.call_later(self._session.input_seconds, self._expire)
            for request_id, (_, asked) in list(self._wanted.items()):
                if request_id in self._wanted:
                    self._reply.send(to_legacy.server_request(request_id, asked))
            self._retry_when_complete()

    def answered(self, request_id: str, answer: Message) -> None:
        """Take the client's answer to one of the server's requests."""
        key, asked = self._wanted.pop(request_id)
        response = to_modern.input_response(asked, answer)
        if response is None:
            self.fail(f"the client did not answer {asked['method']}")
        else:
            self._given[key] = response
            self._retry_when_complete()

    def _retry_when_complete(self) -> None:
        if not self._wanted and self._take(Input.GIVEN):
            self._stop_timer()
            state = {} if self._request_state is None else {"requestState": self._request_state}
            self._send({"inputResponses": self._given, **state} if self._given else state)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _expire(self) -> None:
        self.fail("the client did not answer in time", CallOutcome.TIMEOUT)

    def fail(self, reason: str, outcome: CallOutcome | None = None) -> None:
        """Fail the request, and wait no longer for the client."""
        self._stop_timer()
        for request_id in self._wanted:
            self._session.asked.pop(request_id, None)
        self._wanted = {}
        self._end(jsonrpc.error(self.request_id, jsonrpc.INTERNAL_ERROR, reason), outcome)


def _is_request(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("method"), str)
