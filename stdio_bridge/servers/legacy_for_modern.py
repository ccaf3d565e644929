"""Modern requests for a legacy server, which the bridge has initialized in the client's stead."""

from __future__ import annotations

import math
from collections.abc import Callable

from stdio_bridge.protocol import jsonrpc
from stdio_bridge.protocol.calls import Call
from stdio_bridge.protocol.connection import Link
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
from .subscriptions import Subscriptions
from .suspended_calls import Parking


class BridgedDialect:
    """Speaks with an initialized legacy server."""

    def __init__(
        self,
        link: Link,
        initialized: Message,
        parking: Parking,
        tools: ToolCatalog,
        clock: Callable[[], float],
        *,
        versions: Versions,
    ) -> None:
        self.link = link
        self.parking = parking
        self.tools = tools
        self.clock = clock
        self.server_info = initialized.get("serverInfo")
        self._discovery = discovery(initialized, versions)
        self._capabilities: Message = self._discovery["capabilities"]
        self._subscriptions = Subscriptions(link, self._capabilities, tools, clock)
        self._log_level: str | None = None
        self._speakers: dict[str, Speaker] = {}

    def request(self, exchange: ModernCaller) -> None:
        """Have an exchange answered."""
        params = jsonrpc.params_of(exchange.message)
        if exchange.method == "server/discover":
            answer = jsonrpc.result(exchange.id, self._discovery)
            exchange.finish(answer_from(answer, exchange.method, self.server_info))
        elif exchange.method == LISTEN:
            self._subscriptions.open(exchange)
        elif "requestState" in params:
            self._resume(exchange, params)
        else:
            self._call(exchange)

    def _resume(self, exchange: ModernCaller, params: Message) -> None:
        responses = params.get("inputResponses", {})
        if not isinstance(responses, dict) or not all(isinstance(value, dict) for value in responses.values()):
            raise refused("inputResponses must be an object of results")
        self.parking.consume(params["requestState"], exchange).resume(exchange, responses)

    def _call(self, exchange: ModernCaller) -> None:
        speaker = self._speakers.setdefault(exchange.identity.user, Speaker(self.link))
        call = BridgedCall(self, speaker, exchange)
        level = exchange.envelope.log_level
        if level is not None and "logging" in self._capabilities and self._is_news(level):
            self._log_level = level
            exchange.on_gone = call.leave
            self.link.ask("logging/setLevel", {"level": level}, lambda _: call.begin(), self.clock())
        else:
            call.begin()

    def _is_news(self, level: str) -> bool:
        """Whether the server would not say as much by itself; what is too much for a request is left out later."""
        return self._log_level is None or LOG_LEVELS.index(level) < LOG_LEVELS.index(self._log_level)

    def list_tools(self, page: Message, answered: Callable[[Message], None]) -> None:
        """Ask for the tools on the bridge's own account; the catalog hears of changes by itself."""
        self.link.ask("tools/list", page, answered, self.clock())

    @property
    def idle(self) -> bool:
        """Whether no subscription is open."""
        return not self._subscriptions

    def close(self) -> None:
        """End every subscription, as "Graceful Closure" has it."""
        self._subscriptions.close()

    def fail(self, reason: str) -> None:
        """End every subscription with an error; the link has seen to the calls."""
        self._subscriptions.fail(f"the MCP server {reason}")


class Speaker:
    """One user, as the link's client: finds the call that a message of the server's is about, among several."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.calls: list[BridgedCall] = []

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
                self._link.refuse(self, message, "no call is there that its client could be asked for")
        else:
            wanting = [call for call in self.calls if call.wants(message)]
            if len(wanting) == 1:
                wanting[0].send(message)
            else:
                self._link.drop(message, f"it names no call, and {len(wanting)} calls want such")


class BridgedCall:
    """A legacy server's call, which may outlast the exchange that began it: it is parked while its client is asked."""

    def __init__(self, dialect: BridgedDialect, speaker: Speaker, exchange: ModernCaller) -> None:
        self._dialect = dialect
        self._speaker = speaker
        self._request = exchange.message
        self._exchange: ModernCaller | None = exchange
        self._call: Call | None = None
        self._asked: dict[str, Message] = {}
        self._answer: Message | None = None
        self._left = False

    def begin(self) -> None:
        """Pass the request on, unless its client has left already."""
        exchange = self._exchange
        if self._left or exchange is None:
            return
        exchange.on_gone = self.leave
        self._speaker.calls.append(self)
        link = self._dialect.link
        self._call = link.request(self._speaker, request_for(self._request), self, self._dialect.clock())

    # What the server says

    def wants(self, message: Message) -> bool:
        """Whether there is someone to hear this."""
        return self._exchange is not None and self._exchange.wants(message)

    def may_be_asked(self, request: Message) -> bool:
        """Whether the client has declared that it can answer this."""
        return self._exchange is not None and not missing_capabilities(request, self._exchange.envelope.capabilities)

    def send(self, message: Message) -> None:
        """Take what comes before the answer."""
        if "id" in message:
            self._ask(message)
        elif message["method"] == "notifications/cancelled":
            self._speaker.receive(message)
        elif self._exchange is not None and (told := self._for_exchange(message, self._exchange)) is not None:
            self._exchange.send(told)

    def _for_exchange(self, message: Message, exchange: ModernCaller) -> Message | None:
        """Progress names the token of the request that waits now, which may be a retry."""
        if message["method"] != "notifications/progress":
            return message
        token = jsonrpc.meta_of(exchange.message).get("progressToken")
        if token is None:
            return None
        return {**message, "params": {**jsonrpc.params_of(message), "progressToken": token}}

    def finish(self, message: Message) -> None:
        """Take the answer; without an exchange it waits for the retry."""
        self._speaker.calls.remove(self)
        self._call = None
        self._refuse_questions("the call is over")
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            self._answer = message
        else:
            self._deliver(message, exchange)

    def _deliver(self, message: Message, exchange: ModernCaller) -> None:
        if exchange.method == "tools/list":
            self._dialect.tools.learn(message.get("result"))
            message = without_task_tools(message)
        exchange.finish(answer_from(message, exchange.method, self._dialect.server_info))

    # What the server asks

    def _ask(self, request: Message) -> None:
        link, exchange = self._dialect.link, self._exchange
        if self._request["method"] not in MAY_NEED_INPUT:
            link.refuse(self._speaker, request, "the client cannot be asked during this request")
        elif exchange is None:
            self._asked[request["id"]] = request
        elif missing := missing_capabilities(request, exchange.envelope.capabilities):
            link.refuse(self._speaker, request, "the client does not support this")
            self._give_up("the client lacks a capability")
            text = f"the server needs a capability that the client has not declared: {', '.join(missing)}"
            exchange.fail(MISSING_CAPABILITY, text, {"requiredCapabilities": missing})
        elif not self._dialect.parking.has_room_for(exchange.identity):
            link.refuse(self._speaker, request, "too many calls wait for their client's answer")
        else:
            self._asked[request["id"]] = request
            self._park(exchange)

    def _park(self, exchange: ModernCaller) -> None:
        """Hand the questions to the client, and wait for its retry."""
        self._exchange = None
        if self._call is not None:
            self._dialect.link.wait_until(self._call, math.inf)
        exchange.succeed(
            {
                "resultType": "input_required",
                "inputRequests": {key: input_request(request) for key, request in self._asked.items()},
                "requestState": self._dialect.parking.park(self, exchange),
            }
        )

    def withdraw(self, key: object) -> None:
        """The server no longer wants this answered."""
        if isinstance(key, str):
            self._asked.pop(key, None)

    def resume(self, exchange: ModernCaller, responses: Message) -> None:
        """Go on with the client's answers; what is still unanswered is asked again."""
        if self._answer is not None:
            self._deliver({**self._answer, "id": exchange.id}, exchange)
            return
        self._exchange = exchange
        exchange.on_gone = self.leave
        if self._call is not None:
            self._dialect.link.go_on(self._call, self._dialect.clock())
        for key in [key for key in self._asked if key in responses]:
            del self._asked[key]
            self._dialect.link.respond(self._speaker, jsonrpc.result(key, responses[key]))
        if self._asked:
            self._park(exchange)

    # When nobody waits any more

    def leave(self) -> None:
        """The client has disconnected, which cancels its request."""
        self._left = True
        self._exchange = None
        self._give_up("the client disconnected")

    def abandon(self) -> None:
        """The client did not come back in time."""
        self._give_up("the client did not answer in time")

    def _give_up(self, reason: str) -> None:
        self._exchange = None
        call, self._call = self._call, None
        if call is None:
            return
        self._speaker.calls.remove(self)
        self._refuse_questions(reason)
        self._dialect.link.cancel(call, reason)

    def _refuse_questions(self, reason: str) -> None:
        """Leave nothing open that nobody will answer."""
        asked, self._asked = self._asked, {}
        for request in asked.values():
            self._dialect.link.refuse(self._speaker, request, f"no answer: {reason}")
