"""Modern requests at a legacy server, which the bridge has initialized for the client."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable

from stdio_bridge.protocol import jsonrpc, to_legacy, to_modern
from stdio_bridge.protocol.calls import Call, CallOutcome
from stdio_bridge.protocol.jsonrpc import Message
from stdio_bridge.protocol.mcp import (
    LISTEN,
    LOG_LEVELS,
    MAY_NEED_INPUT,
    MISSING_CAPABILITY,
    Versions,
    without_task_tools,
)
from stdio_bridge.protocol.request_metadata import missing_capabilities
from stdio_bridge.protocol.request_state import refused
from stdio_bridge.protocol.tool_catalog import ToolCatalog

from .backend import ModernCaller, Reply
from .dispatcher import Dispatcher
from .subscriptions import Subscriptions
from .suspended_calls import SuspendedCalls


class LegacyForModern:
    """Modern calls at an initialized legacy server."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        initialized: Message,
        suspended_calls: SuspendedCalls,
        tools: ToolCatalog,
        *,
        versions: Versions,
    ) -> None:
        self.dispatcher = dispatcher
        self.suspended_calls = suspended_calls
        self.tools = tools
        self.server_info = initialized.get("serverInfo")
        self._discovery = to_modern.discovery(initialized, versions)
        self._capabilities: Message = self._discovery["capabilities"]
        self._subscriptions = Subscriptions(dispatcher, self._capabilities, tools)
        self._log_level: str | None = None
        self._users: dict[str, _User] = {}
        self._calls: dict[ModernCaller, LegacyCall] = {}

    def request(self, client: ModernCaller, message: Message, reply: Reply) -> None:
        """Answer a call. Raises HttpError for an invalid retry."""
        params = jsonrpc.params_of(message)
        if client.method == "server/discover":
            answer = jsonrpc.result(client.id, self._discovery)
            reply.finish(to_modern.answer(answer, client.method, self.server_info))
        elif client.method == LISTEN:
            self._subscriptions.open(client)
        elif "requestState" in params:
            self._resume(client, params)
        else:
            self._call(client)

    def leave(self, client: ModernCaller) -> None:
        """Cancel the call, or end the subscription, of a client that has left."""
        call = self._calls.get(client)
        if call is not None:
            call.leave()
        else:
            self._subscriptions.leave(client)

    def add_waiting(self, client: ModernCaller, call: LegacyCall) -> None:
        """Note that this client waits for this call."""
        self._calls[client] = call

    def remove_waiting(self, client: ModernCaller) -> None:
        """Forget a client that has its answer, or has left."""
        self._calls.pop(client, None)

    def _resume(self, client: ModernCaller, params: Message) -> None:
        responses = params.get("inputResponses", {})
        if not isinstance(responses, dict) or not all(isinstance(value, dict) for value in responses.values()):
            raise refused("inputResponses must be an object of results")
        self.suspended_calls.consume(params["requestState"], client).resume(client, responses)

    def _call(self, client: ModernCaller) -> None:
        user = self._users.setdefault(client.identity.user, _User(self.dispatcher))
        call = LegacyCall(self, user, client)
        level = client.metadata.log_level
        if level is not None and "logging" in self._capabilities and self._is_lower(level):
            self._log_level = level
            self.dispatcher.ask("logging/setLevel", {"level": level}, lambda _: call.begin(client.message))
        else:
            call.begin(client.message)

    def _is_lower(self, level: str) -> bool:
        """Whether this level is lower than the server's; messages below a call's own level are left out later."""
        return self._log_level is None or LOG_LEVELS.index(level) < LOG_LEVELS.index(self._log_level)

    def list_tools(self, page: Message, answered: Callable[[Message], None]) -> None:
        """List the tools for the bridge itself. Subscriptions reports changes to the catalog."""
        self.dispatcher.ask("tools/list", page, answered)

    @property
    def idle(self) -> bool:
        """Whether no subscription is open."""
        return not self._subscriptions

    def close(self) -> None:
        """End every subscription, as "Graceful Closure" has it."""
        self._subscriptions.close()

    def fail(self, reason: str) -> None:
        """End every subscription with an error. The connection fails the calls."""
        self._subscriptions.fail(f"the MCP server {reason}")


class _User:
    """One user, who is the connection's client: finds the user's call that a message of the server is about."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self.calls: list[LegacyCall] = []

    def receive(self, message: Message) -> None:
        """Take a message that names no call. A request goes to the newest call whose client can answer it."""
        if message["method"] == "notifications/cancelled":
            for call in self.calls:
                call.withdraw(jsonrpc.params_of(message).get("requestId"))
        elif "id" in message:
            asked = next((call for call in reversed(self.calls) if call.may_be_asked(message)), None)
            if asked is not None:
                asked.send(message)
            else:
                self._dispatcher.refuse(self, message, "there is no call whose client could be asked")
        else:
            wanting = [call for call in self.calls if call.wants(message)]
            if len(wanting) == 1:
                wanting[0].send(message)
            else:
                self._dispatcher.drop(message, f"it names no call, and {len(wanting)} calls could be meant")


class State(enum.Enum):
    """The state of a call."""

    NEW = enum.auto()
    """It is not sent to the server yet."""
    AT_SERVER = enum.auto()
    """The server works on it, and its client waits."""
    SUSPENDED = enum.auto()
    """The server waits for input, with which the client is to retry."""
    ANSWERED = enum.auto()
    """The server has answered without the input. The answer waits for the retry."""
    OVER = enum.auto()


class Input(enum.Enum):
    """What happens to a call."""

    BEGIN = enum.auto()
    ASK = enum.auto()
    """The client gets the server's requests for input."""
    RETRY = enum.auto()
    """The client retries."""
    ANSWER = enum.auto()
    """The server has answered."""
    GIVE_UP = enum.auto()
    """The client has left, has not retried in time, or cannot answer."""


# An input that a state does not list comes too late, and changes nothing.
TRANSITIONS: dict[State, dict[Input, State]] = {
    State.NEW: {Input.BEGIN: State.AT_SERVER, Input.GIVE_UP: State.OVER},
    State.AT_SERVER: {Input.ASK: State.SUSPENDED, Input.ANSWER: State.OVER, Input.GIVE_UP: State.OVER},
    State.SUSPENDED: {Input.RETRY: State.AT_SERVER, Input.ANSWER: State.ANSWERED, Input.GIVE_UP: State.OVER},
    State.ANSWERED: {Input.RETRY: State.OVER, Input.GIVE_UP: State.OVER},
    State.OVER: {},
}


class LegacyCall:
    """A modern client's call at a legacy server. It is suspended while the client is asked for input, between requests.

    A client waits for it only while it is NEW or AT_SERVER. The request, which may be large, is not kept.
    """

    def __init__(self, backend: LegacyForModern, user: _User, client: ModernCaller) -> None:
        self._backend = backend
        self._user = user
        self._method = client.method
        self._state = State.NEW
        self._client: ModernCaller | None = None
        self._call: Call | None = None
        self._asked: dict[str, Message] = {}
        self._answer: Message = {}
        self._outcome: CallOutcome | None = None
        self._serve(client)

    def _take(self, what: Input) -> State | None:
        """Change the state. Returns the previous one, None if the input comes too late."""
        previous, following = self._state, TRANSITIONS[self._state].get(what)
        if following is None:
            return None
        self._state = following
        return previous

    def _serve(self, client: ModernCaller) -> None:
        self._client = client
        self._backend.add_waiting(client, self)

    def _release(self) -> ModernCaller | None:
        """Return the client that has waited, if there is one. It waits no longer."""
        client, self._client = self._client, None
        if client is not None:
            self._backend.remove_waiting(client)
        return client

    def begin(self, request: Message) -> None:
        """Pass the request on, unless its client has left already."""
        if self._take(Input.BEGIN) is not None:
            self._user.calls.append(self)
            self._call = self._backend.dispatcher.request(self._user, to_legacy.request(request), self)

    # What the server says

    def wants(self, message: Message) -> bool:
        """Whether a client waits, and wants this message."""
        return self._client is not None and self._client.wants(message)

    def may_be_asked(self, request: Message) -> bool:
        """Whether the client has declared that it can answer this."""
        return self._client is not None and not missing_capabilities(request, self._client.metadata.capabilities)

    def send(self, message: Message) -> None:
        """Take a message before the answer."""
        if "id" in message:
            self._ask(message)
        elif message["method"] == "notifications/cancelled":
            self._user.receive(message)
        elif self._client is not None and (told := _for_client(message, self._client)) is not None:
            self._client.send(told)

    def finish(self, message: Message, outcome: CallOutcome | None = None) -> None:
        """Take the answer. If no client waits, keep it for the retry."""
        self._user.calls.remove(self)
        self._call = None
        self._refuse_questions("the call is over")
        self._take(Input.ANSWER)
        self._outcome = outcome
        client = self._release()
        if client is None:
            self._answer = message
        else:
            self._deliver(message, client)

    def _deliver(self, message: Message, client: ModernCaller) -> None:
        if client.method == "tools/list":
            self._backend.tools.learn(message.get("result"))
            message = without_task_tools(message)
        client.finish(to_modern.answer(message, client.method, self._backend.server_info), self._outcome)

    # What the server asks

    def _ask(self, request: Message) -> None:
        dispatcher, client = self._backend.dispatcher, self._client
        if self._method not in MAY_NEED_INPUT:
            dispatcher.refuse(self._user, request, "the client cannot be asked during this request")
        elif client is None:
            self._asked[request["id"]] = request
        elif missing := missing_capabilities(request, client.metadata.capabilities):
            dispatcher.refuse(self._user, request, "the client does not support this")
            self._give_up("the client lacks a capability")
            text = f"the server needs a capability that the client has not declared: {', '.join(missing)}"
            client.fail(MISSING_CAPABILITY, text, {"requiredCapabilities": missing})
        elif not self._backend.suspended_calls.has_room_for(client.identity):
            dispatcher.refuse(self._user, request, "too many calls wait for their client's answer")
        else:
            self._asked[request["id"]] = request
            self._suspend(client)

    def _suspend(self, client: ModernCaller) -> None:
        """Send the server's requests to the client, and wait for its retry."""
        self._take(Input.ASK)
        self._release()
        if self._call is not None:
            self._backend.dispatcher.wait_until(self._call, math.inf)
        client.succeed(
            {
                "resultType": "input_required",
                "inputRequests": {key: to_modern.input_request(request) for key, request in self._asked.items()},
                "requestState": self._backend.suspended_calls.suspend(self, client),
            }
        )

    def withdraw(self, key: object) -> None:
        """Remove a request that the server has cancelled."""
        if isinstance(key, str):
            self._asked.pop(key, None)

    def resume(self, client: ModernCaller, responses: Message) -> None:
        """Pass the client's answers on, and ask again for missing ones."""
        if self._take(Input.RETRY) is State.ANSWERED:
            self._deliver({**self._answer, "id": client.id}, client)
            return
        self._serve(client)
        if self._call is not None:
            self._backend.dispatcher.restart_timeouts(self._call)
        for key in [key for key in self._asked if key in responses]:
            del self._asked[key]
            self._backend.dispatcher.respond(self._user, jsonrpc.result(key, responses[key]))
        if self._asked:
            self._suspend(client)

    # When the client does not come back

    def leave(self) -> None:
        """Cancel the call, as the client has disconnected."""
        self._give_up("the client disconnected")

    def abandon(self) -> None:
        """Cancel the call, as the client did not retry in time."""
        self._give_up("the client did not answer in time")

    def _give_up(self, reason: str) -> None:
        self._take(Input.GIVE_UP)
        self._release()
        call, self._call = self._call, None
        if call is None:
            return
        self._user.calls.remove(self)
        self._refuse_questions(reason)
        self._backend.dispatcher.cancel(call, reason)

    def _refuse_questions(self, reason: str) -> None:
        """Answer the server's open requests with an error."""
        asked, self._asked = self._asked, {}
        for request in asked.values():
            self._backend.dispatcher.refuse(self._user, request, f"no answer: {reason}")


def _for_client(message: Message, client: ModernCaller) -> Message | None:
    """Give progress the token of the request that waits now, which may be the retry."""
    if message["method"] != "notifications/progress":
        return message
    token = jsonrpc.meta_of(client.message).get("progressToken")
    if token is None:
        return None
    return {**message, "params": {**jsonrpc.params_of(message), "progressToken": token}}
