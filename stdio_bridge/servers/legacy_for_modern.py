"""Modern requests for a legacy server, which the bridge has initialized in the client's stead."""

from __future__ import annotations

import math
from collections.abc import Callable

from stdio_bridge.protocol import jsonrpc
from stdio_bridge.protocol.calls import Call
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
from stdio_bridge.protocol.to_legacy import answer_from, discovery, input_request, request_for
from stdio_bridge.protocol.tool_catalog import ToolCatalog

from .backend import ModernCaller
from .dispatcher import Dispatcher
from .subscriptions import Subscriptions
from .suspended_calls import SuspendedCalls


class LegacyForModern:
    """Speaks with an initialized legacy server."""

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
        self._discovery = discovery(initialized, versions)
        self._capabilities: Message = self._discovery["capabilities"]
        self._subscriptions = Subscriptions(dispatcher, self._capabilities, tools)
        self._log_level: str | None = None
        self._user_clients: dict[str, UserClient] = {}

    def request(self, modern_call: ModernCaller) -> None:
        """Have a call answered."""
        params = jsonrpc.params_of(modern_call.message)
        if modern_call.method == "server/discover":
            answer = jsonrpc.result(modern_call.id, self._discovery)
            modern_call.finish(answer_from(answer, modern_call.method, self.server_info))
        elif modern_call.method == LISTEN:
            self._subscriptions.open(modern_call)
        elif "requestState" in params:
            self._resume(modern_call, params)
        else:
            self._call(modern_call)

    def _resume(self, modern_call: ModernCaller, params: Message) -> None:
        responses = params.get("inputResponses", {})
        if not isinstance(responses, dict) or not all(isinstance(value, dict) for value in responses.values()):
            raise refused("inputResponses must be an object of results")
        self.suspended_calls.consume(params["requestState"], modern_call).resume(modern_call, responses)

    def _call(self, modern_call: ModernCaller) -> None:
        user_client = self._user_clients.setdefault(modern_call.identity.user, UserClient(self.dispatcher))
        call = LegacyCall(self, user_client, modern_call)
        level = modern_call.metadata.log_level
        if level is not None and "logging" in self._capabilities and self._is_news(level):
            self._log_level = level
            modern_call.on_gone = call.leave
            self.dispatcher.ask("logging/setLevel", {"level": level}, lambda _: call.begin())
        else:
            call.begin()

    def _is_news(self, level: str) -> bool:
        """Whether the server would not say as much by itself; what is too much for a request is left out later."""
        return self._log_level is None or LOG_LEVELS.index(level) < LOG_LEVELS.index(self._log_level)

    def list_tools(self, page: Message, answered: Callable[[Message], None]) -> None:
        """Ask for the tools on the bridge's own account; the catalog hears of changes by itself."""
        self.dispatcher.ask("tools/list", page, answered)

    @property
    def idle(self) -> bool:
        """Whether no subscription is open."""
        return not self._subscriptions

    def close(self) -> None:
        """End every subscription, as "Graceful Closure" has it."""
        self._subscriptions.close()

    def fail(self, reason: str) -> None:
        """End every subscription with an error; the dispatcher has seen to the calls."""
        self._subscriptions.fail(f"the MCP server {reason}")


class UserClient:
    """One user, as the connection's client: finds the call that a message of the server's is about, among several."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self.calls: list[LegacyCall] = []

    def receive(self, message: Message) -> None:
        """Take what names no call. A question goes with the newest call that may be asked: its user is the same."""
        if message["method"] == "notifications/cancelled":
            for call in self.calls:
                call.withdraw(jsonrpc.params_of(message).get("requestId"))
        elif "id" in message:
            asked = next((call for call in reversed(self.calls) if call.may_be_asked(message)), None)
            if asked is not None:
                asked.send(message)
            else:
                self._dispatcher.refuse(self, message, "no call is there that its client could be asked for")
        else:
            wanting = [call for call in self.calls if call.wants(message)]
            if len(wanting) == 1:
                wanting[0].send(message)
            else:
                self._dispatcher.drop(message, f"it names no call, and {len(wanting)} calls want such")


class LegacyCall:
    """A call of a legacy server, suspended while its client is asked: it may outlast the request that began it."""

    def __init__(self, backend: LegacyForModern, user_client: UserClient, modern_call: ModernCaller) -> None:
        self._backend = backend
        self._user_client = user_client
        self._request = modern_call.message
        self._modern_call: ModernCaller | None = modern_call
        self._call: Call | None = None
        self._asked: dict[str, Message] = {}
        self._answer: Message | None = None
        self._left = False

    def begin(self) -> None:
        """Pass the request on, unless its client has left already."""
        modern_call = self._modern_call
        if self._left or modern_call is None:
            return
        modern_call.on_gone = self.leave
        self._user_client.calls.append(self)
        dispatcher = self._backend.dispatcher
        self._call = dispatcher.request(self._user_client, request_for(self._request), self)

    # What the server says

    def wants(self, message: Message) -> bool:
        """Whether there is someone to hear this."""
        return self._modern_call is not None and self._modern_call.wants(message)

    def may_be_asked(self, request: Message) -> bool:
        """Whether the client has declared that it can answer this."""
        return self._modern_call is not None and not missing_capabilities(
            request, self._modern_call.metadata.capabilities
        )

    def send(self, message: Message) -> None:
        """Take what comes before the answer."""
        if "id" in message:
            self._ask(message)
        elif message["method"] == "notifications/cancelled":
            self._user_client.receive(message)
        elif self._modern_call is not None and (told := self._for_modern_call(message, self._modern_call)) is not None:
            self._modern_call.send(told)

    def _for_modern_call(self, message: Message, modern_call: ModernCaller) -> Message | None:
        """Progress names the token of the request that waits now, which may be a retry."""
        if message["method"] != "notifications/progress":
            return message
        token = jsonrpc.meta_of(modern_call.message).get("progressToken")
        if token is None:
            return None
        return {**message, "params": {**jsonrpc.params_of(message), "progressToken": token}}

    def finish(self, message: Message) -> None:
        """Take the answer; without a request that waits it is kept for the retry."""
        self._user_client.calls.remove(self)
        self._call = None
        self._refuse_questions("the call is over")
        modern_call, self._modern_call = self._modern_call, None
        if modern_call is None:
            self._answer = message
        else:
            self._deliver(message, modern_call)

    def _deliver(self, message: Message, modern_call: ModernCaller) -> None:
        if modern_call.method == "tools/list":
            self._backend.tools.learn(message.get("result"))
            message = without_task_tools(message)
        modern_call.finish(answer_from(message, modern_call.method, self._backend.server_info))

    # What the server asks

    def _ask(self, request: Message) -> None:
        dispatcher, modern_call = self._backend.dispatcher, self._modern_call
        if self._request["method"] not in MAY_NEED_INPUT:
            dispatcher.refuse(self._user_client, request, "the client cannot be asked during this request")
        elif modern_call is None:
            self._asked[request["id"]] = request
        elif missing := missing_capabilities(request, modern_call.metadata.capabilities):
            dispatcher.refuse(self._user_client, request, "the client does not support this")
            self._give_up("the client lacks a capability")
            text = f"the server needs a capability that the client has not declared: {', '.join(missing)}"
            modern_call.fail(MISSING_CAPABILITY, text, {"requiredCapabilities": missing})
        elif not self._backend.suspended_calls.has_room_for(modern_call.identity):
            dispatcher.refuse(self._user_client, request, "too many calls wait for their client's answer")
        else:
            self._asked[request["id"]] = request
            self._suspend(modern_call)

    def _suspend(self, modern_call: ModernCaller) -> None:
        """Hand the questions to the client, and wait for its retry."""
        self._modern_call = None
        if self._call is not None:
            self._backend.dispatcher.wait_until(self._call, math.inf)
        modern_call.succeed(
            {
                "resultType": "input_required",
                "inputRequests": {key: input_request(request) for key, request in self._asked.items()},
                "requestState": self._backend.suspended_calls.suspend(self, modern_call),
            }
        )

    def withdraw(self, key: object) -> None:
        """The server no longer wants this answered."""
        if isinstance(key, str):
            self._asked.pop(key, None)

    def resume(self, modern_call: ModernCaller, responses: Message) -> None:
        """Go on with the client's answers; what is still unanswered is asked again."""
        if self._answer is not None:
            self._deliver({**self._answer, "id": modern_call.id}, modern_call)
            return
        self._modern_call = modern_call
        modern_call.on_gone = self.leave
        if self._call is not None:
            self._backend.dispatcher.go_on(self._call)
        for key in [key for key in self._asked if key in responses]:
            del self._asked[key]
            self._backend.dispatcher.respond(self._user_client, jsonrpc.result(key, responses[key]))
        if self._asked:
            self._suspend(modern_call)

    # When nobody waits any more

    def leave(self) -> None:
        """The client has disconnected, which cancels its request."""
        self._left = True
        self._modern_call = None
        self._give_up("the client disconnected")

    def abandon(self) -> None:
        """The client did not come back in time."""
        self._give_up("the client did not answer in time")

    def _give_up(self, reason: str) -> None:
        self._modern_call = None
        call, self._call = self._call, None
        if call is None:
            return
        self._user_client.calls.remove(self)
        self._refuse_questions(reason)
        self._backend.dispatcher.cancel(call, reason)

    def _refuse_questions(self, reason: str) -> None:
        """Leave nothing open that nobody will answer."""
        asked, self._asked = self._asked, {}
        for request in asked.values():
            self._backend.dispatcher.refuse(self._user_client, request, f"no answer: {reason}")
