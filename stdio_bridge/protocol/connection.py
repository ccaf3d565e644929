"""One server's conversation with its clients: rewrites ids and matches answers. No I/O, no clock.

`Connection` is one server process' conversation, shared by any number of clients. Its rules:

- Every client request goes to the server under an id of the connection's own, so equal ids of different clients, or of
  one client twice, do not clash. The same holds for progress tokens, and for ids of the server's own requests.
- A response belongs to the call with its id. A second response to the same call is dropped.
- Progress belongs to the call whose token it names. Other messages name no call: `recipients` decides which clients get
  them, and each is delivered with that client's call where there is just one.
- A subscription of the modern era is a call without end; its messages name it by the connection's id.
- When the server ends, every call in flight fails at once. Nothing is sent twice.

It has no callbacks: each method returns the events that follow from its input, in order.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass

from . import jsonrpc
from .calls import Call, CallOutcome, CallsInFlight, CallTimeouts, Purpose
from .events import Answer, Closed, Event, Notification, Progress, ServerRequest, ToServer, dropped
from .jsonrpc import Message, RequestId
from .mcp import MAX_KEPT_CHARACTERS, SUBSCRIPTION_ID
from .recipients import TOO_MANY_SUBSCRIPTIONS, Recipients

_MAX_SERVER_REQUESTS = 1000
# The client of the bridge's own requests.
BRIDGE = "bridge"


@dataclass(frozen=True, slots=True, kw_only=True)
class _ServerRequest:
    """A request of the server that its client has not answered yet."""

    server_id: RequestId
    client: Hashable
    progress_token: RequestId | None


class Connection:
    """One server's conversation. Any hashable value can stand for a client."""

    def __init__(self, *, timeouts: CallTimeouts) -> None:
        self._timeouts = timeouts
        self._calls = CallsInFlight()
        self._asked: dict[str, _ServerRequest] = {}
        self._next_id = 0
        self._recipients = Recipients()
        self._ended: str | None = None

    # What clients do.

    def join(self, client: Hashable, *, user: object = "", capabilities: frozenset[str] | None = None) -> None:
        """Add a client of this user, so that it gets messages of the server that name no call.

        The server may ask it only for what its `capabilities` declare; None allows any request.
        """
        self._recipients.join(client, user=user, capabilities=capabilities)

    def leave(self, client: Hashable) -> list[Event]:
        """Remove a client: cancel its calls, and answer the server's requests to it with an error."""
        events: list[Event] = []
        for call in self._calls.of(client):
            events += self.cancel(call, "the client has left")
            error = jsonrpc.error(call.request_id, jsonrpc.SERVER_ERROR, "the session was ended")
            events.append(Answer(call, error, CallOutcome.CLIENT_GONE))
        for wire_id in [wire_id for wire_id, asked in self._asked.items() if asked.client is client]:
            events.append(_refusal(self._asked.pop(wire_id).server_id, "the client has left"))
        for uri in self._recipients.leave(client):
            # No call waits for the answer, so it is dropped.
            self._next_id += 1
            unsubscribe = {"method": "resources/unsubscribe", "params": {"uri": uri}}
            events.append(ToServer({"jsonrpc": "2.0", "id": self._next_id, **unsubscribe}))
        return events

    def request(
        self, client: Hashable, message: Message, now: float, purpose: Purpose = Purpose.CALL
    ) -> tuple[Call, list[Event]]:
        """Pass a client's request on. Returns the call and the events, among which may already be its answer."""
        self._next_id += 1
        wire_id = self._next_id
        lasting = purpose is Purpose.STREAM
        call = Call(
            client=client,
            request_id=message["id"],
            method=message["method"],
            progress_token=jsonrpc.meta_of(message).get("progressToken"),
            purpose=purpose,
            wire_id=wire_id,
            deadline=math.inf if lasting else now + self._timeouts.idle,
            last_deadline=math.inf if lasting else now + self._timeouts.total,
            idle_timeout=self._timeouts.idle,
        )
        if self._ended is not None:
            return call, [_failure(call, self._ended)]
        self._recipients.spoke(client)
        own_answer = self._subscription_answer(call, message)
        if own_answer is not None:
            return call, [Answer(call, own_answer)]
        self._calls.add(call)
        if call.progress_token is not None:
            message = jsonrpc.with_meta(message, progressToken=wire_id)
        return call, [ToServer({**message, "id": wire_id})]

    def _subscription_answer(self, call: Call, message: Message) -> Message | None:
        """Note a subscription or its end, as several clients of this connection may subscribe to one resource.

        Returns the answer where the server need not be asked.
        """
        if call.method not in _SUBSCRIBING or not isinstance(uri := jsonrpc.params_of(message).get("uri"), str):
            return None
        if call.method == "resources/subscribe":
            if not self._recipients.has_room_for(call.client, uri):
                return jsonrpc.error(call.request_id, jsonrpc.SERVER_ERROR, TOO_MANY_SUBSCRIPTIONS)
            self._recipients.subscribe(call.client, uri)
            call.subscribes_to = uri
            return None
        self._recipients.unsubscribe(call.client, uri)
        return jsonrpc.result(call.request_id, {}) if self._recipients.has_subscribers(uri) else None

    def ask(self, method: str, params: Message, now: float) -> tuple[Call, list[Event]]:
        """Ask the server something for the bridge itself."""
        message: Message = {"jsonrpc": "2.0", "id": 0, "method": method, "params": params}
        return self.request(BRIDGE, message, now, Purpose.INTERNAL)

    def notify(self, client: Hashable, message: Message) -> list[Event]:
        """Pass a client's notification on."""
        method = message["method"]
        params = jsonrpc.params_of(message)
        if method == "notifications/cancelled":
            events: list[Event] = []
            for call in self._calls_with_id(client, params.get("requestId")):
                events += self.cancel(call, params.get("reason"))
                error = jsonrpc.error(call.request_id, jsonrpc.SERVER_ERROR, "cancelled by the client")
                events.append(Answer(call, error, CallOutcome.CANCELLED))
            return events
        if method == "notifications/progress" and not self._was_asked(client, params.get("progressToken")):
            return [dropped(message, "it reports progress of no request that this client was sent")]
        self._recipients.spoke(client)
        return [ToServer(message)]

    def respond(self, client: Hashable, message: Message) -> list[Event]:
        """Pass a client's answer on. An answer to no request that this client was sent is dropped."""
        wire_id = message.get("id")
        asked = self._asked.get(wire_id) if isinstance(wire_id, str) else None
        if asked is None or asked.client is not client:
            return [dropped(message, "it answers no request that this client was sent")]
        del self._asked[str(wire_id)]
        return [ToServer({**message, "id": asked.server_id})]

    def cancel(self, call: Call, reason: object = None) -> list[Event]:
        """Cancel a call: tell the server, and drop the answer if it still comes."""
        if self._calls.take(call.wire_id) is None or call.method == "initialize":
            return []  # "The `initialize` request MUST NOT be cancelled by clients"
        params: Message = {"requestId": call.wire_id}
        if isinstance(reason, str):
            params["reason"] = reason
        return [ToServer(jsonrpc.notification("notifications/cancelled", params))]

    def wait_until(self, call: Call, deadline: float) -> None:
        """Set the deadline of a call that waits for its client, however long it has taken so far."""
        call.deadline = deadline

    def restart_timeouts(self, call: Call, now: float) -> None:
        """Restart a call's time-outs after it has waited for its client."""
        call.deadline = now + self._timeouts.idle
        call.last_deadline = now + self._timeouts.total

    def refuse(self, client: Hashable, request: Message, text: str) -> list[Event]:
        """Answer a request of the server with an error, in place of the client that it was sent to."""
        return self.respond(client, jsonrpc.error(request["id"], jsonrpc.INTERNAL_ERROR, text))

    def expire(self, now: float) -> list[Event]:
        """Fail the calls whose time is up."""
        # The time that a call waits for its client does not count: the client may be waiting for a person.
        for client in {asked.client for asked in self._asked.values()}:
            for call in self._calls.of(client):
                call.deadline = max(call.deadline, min(now + call.idle_timeout, call.last_deadline))
        events: list[Event] = []
        for call in [call for call in self._calls if call.deadline <= now]:
            events += self.cancel(call, "timed out")
            error = jsonrpc.error(call.request_id, jsonrpc.SERVER_ERROR, "the server did not answer in time")
            events.append(Answer(call, error, CallOutcome.TIMEOUT))
        return events

    # What the server does.

    def receive(self, message: Message, now: float) -> list[Event]:
        """Take a message of the server. Raises InvalidMessage, and then nothing has changed."""
        kind = jsonrpc.kind_of(message)
        if kind is jsonrpc.Kind.RESPONSE:
            return [self._receive_response(message)]
        message = jsonrpc.without_null_params(message)
        return (
            self._receive_request(message) if kind is jsonrpc.Kind.REQUEST else self._receive_notification(message, now)
        )

    def fail(self, wire_id: int, text: str) -> list[Event]:
        """Fail a call whose answer cannot be passed on, if it is in flight."""
        if self._calls.find(wire_id) is None:
            return []
        return [self._receive_response(jsonrpc.error(wire_id, jsonrpc.INTERNAL_ERROR, text))]

    def answer(self, response: Message, outcome: CallOutcome) -> list[Event]:
        """Answer a call in the server's place, if it is in flight, without telling the server."""
        call = self._calls.take(response["id"])
        return [] if call is None else [Answer(call, {**response, "id": call.request_id}, outcome)]

    def _receive_response(self, message: Message) -> Event:
        call = self._calls.take(message.get("id"))
        if call is None:
            return dropped(message, "no call with its id is in flight")
        message = {**message, "id": call.request_id}
        if "error" not in message and not isinstance(message["result"], dict):
            text = "the MCP server's answer cannot be read: its result is not an object"
            message = jsonrpc.error(call.request_id, jsonrpc.INTERNAL_ERROR, text)
        if "error" in message:
            message["error"] = jsonrpc.sound_error(message["error"])
            if call.subscribes_to is not None:
                self._recipients.unsubscribe(call.client, call.subscribes_to)
        if call.purpose is Purpose.STREAM and isinstance(message.get("result"), dict):
            message["result"] = _named_after(call, message["result"])
        return Answer(call, message)

    def _receive_request(self, message: Message) -> list[Event]:
        if message["method"] == "ping":
            # A ping is about this connection, so the bridge answers.
            return [ToServer(jsonrpc.result(message["id"], {}))]
        client = self._recipients.for_request(message, self._calls.callers())
        if client is None:
            text = "the server asked for input, and no connected client that it may ask declared support for it"
            return [_refusal(message["id"], text)]
        if self._has_too_many_requests(client):
            return [_refusal(message["id"], "too many requests are unanswered")]
        token = jsonrpc.meta_of(message).get("progressToken")
        if len(jsonrpc.encode(message["id"])) + len(jsonrpc.encode(token)) > 2 * MAX_KEPT_CHARACTERS:
            return [_refusal(message["id"], "its id or its progress token is too long")]
        self._next_id += 1
        # A string, so that it differs from the integers of a client in logs and traces.
        wire_id = f"s{self._next_id}"
        self._asked[wire_id] = _ServerRequest(
            server_id=message["id"],
            client=client,
            progress_token=token,
        )
        return [ServerRequest(client, self._calls.only_one_of(client), {**message, "id": wire_id})]

    def _has_too_many_requests(self, client: Hashable) -> bool:
        # Each client has its own share, so that a client that answers nothing blocks no other client.
        if len(self._asked) < _MAX_SERVER_REQUESTS:
            return False
        return sum(asked.client is client for asked in self._asked.values()) >= _MAX_SERVER_REQUESTS

    def _receive_notification(self, message: Message, now: float) -> list[Event]:
        method = message["method"]
        params = jsonrpc.params_of(message)
        if method == "notifications/progress":
            return [self._receive_progress(message, params.get("progressToken"), now)]
        if method == "notifications/cancelled":
            return self._receive_cancelled(message, params.get("requestId"))
        if SUBSCRIPTION_ID in jsonrpc.meta_of(message):
            return [self._receive_event(message, jsonrpc.meta_of(message)[SUBSCRIPTION_ID])]
        if method in _TO_EVERY_CLIENT:
            clients = self._recipients.members
        elif method == "notifications/resources/updated":
            clients = self._recipients.for_update(params.get("uri"))
        else:
            clients = self._recipients.for_notification(self._calls.callers())
        if not clients:
            return [dropped(message, "it names no call, and it is not clear which client it is for")]
        return [Notification(client, self._calls.only_one_of(client), message) for client in clients]

    def _receive_progress(self, message: Message, token: object, now: float) -> Event:
        call = self._calls.find(token)
        # A client that sent no token wants no progress, even if the server uses the request's id as a token.
        if call is None or call.progress_token is None:
            return dropped(message, "no call in flight has its token")
        # Never earlier than it is now: a call that waits for its client has a later deadline.
        call.deadline = max(call.deadline, min(now + call.idle_timeout, call.last_deadline))
        params = {**jsonrpc.params_of(message), "progressToken": call.progress_token}
        return Progress(call, {**message, "params": params})

    def _receive_event(self, message: Message, subscription: object) -> Event:
        call = self._calls.find(subscription)
        if call is None or call.purpose is not Purpose.STREAM:
            return dropped(message, "it names no subscription")
        return Progress(call, {**message, "params": _named_after(call, jsonrpc.params_of(message))})

    def _receive_cancelled(self, message: Message, server_id: object) -> list[Event]:
        # First the server's own requests: the server and the bridge number their requests independently.
        for wire_id, asked in self._asked.items():
            if asked.server_id == server_id:
                del self._asked[wire_id]
                params = {**jsonrpc.params_of(message), "requestId": wire_id}
                return [
                    Notification(asked.client, self._calls.only_one_of(asked.client), {**message, "params": params})
                ]
        call = self._calls.find(server_id)
        if call is None:
            return [dropped(message, "it names no unanswered request")]
        if call.purpose is Purpose.STREAM:
            # "A server MUST send this when it tears down that subscription stream."
            self._calls.take(call.wire_id)
            result = _named_after(call, {"resultType": "complete"})
            return [Answer(call, jsonrpc.result(call.request_id, result))]
        reason = jsonrpc.params_of(message).get("reason")
        why = f": {reason}" if isinstance(reason, str) else ""
        return self.fail(call.wire_id, f"the MCP server cancelled the call{why}")

    def close(self, reason: str) -> list[Event]:
        """Note that the server is gone: every call in flight fails with this reason, and so does each later one."""
        self._ended = reason
        self._asked.clear()
        return [*(_failure(call, reason) for call in self._calls.clear()), Closed(reason)]

    # The state.

    @property
    def ended(self) -> bool:
        """Whether the server is gone."""
        return self._ended is not None

    @property
    def in_flight(self) -> int:
        """How many calls the server has not answered, without subscriptions and the bridge's own requests."""
        return self._calls.requests_of_clients

    @property
    def unanswered(self) -> int:
        """How many requests of any kind the server has not answered."""
        return len(self._calls)

    @property
    def idle(self) -> bool:
        """Whether no call and no request of the server is unanswered. Subscriptions do not count here."""
        return not self._asked and all(call.purpose is Purpose.STREAM for call in self._calls)

    def has_calls_of(self, client: Hashable) -> bool:
        """Whether a call of this client is in flight."""
        return bool(self._calls.of(client))

    def waits_for(self, client: Hashable) -> bool:
        """Whether a request of the server to this client is unanswered."""
        return any(asked.client is client for asked in self._asked.values())

    def _calls_with_id(self, client: Hashable, request_id: object) -> list[Call]:
        return [call for call in self._calls.of(client) if call.request_id == request_id]

    def _was_asked(self, client: Hashable, token: object) -> bool:
        return token is not None and any(
            asked.client is client and asked.progress_token == token for asked in self._asked.values()
        )


def _refusal(server_id: RequestId, text: str) -> ToServer:
    return ToServer(jsonrpc.error(server_id, jsonrpc.INTERNAL_ERROR, text))


def _failure(call: Call, reason: str) -> Answer:
    error = jsonrpc.error(call.request_id, jsonrpc.INTERNAL_ERROR, f"the MCP server {reason}")
    return Answer(call, error, CallOutcome.SERVER_EXIT)


def _named_after(call: Call, params: Message) -> Message:
    """Return params or a result of a subscription, with the id that the client gave it."""
    meta = params.get("_meta")
    return {**params, "_meta": {**(meta if isinstance(meta, dict) else {}), SUBSCRIPTION_ID: call.request_id}}


_SUBSCRIBING = ("resources/subscribe", "resources/unsubscribe")
_TO_EVERY_CLIENT = frozenset(
    {
        "notifications/tools/list_changed",
        "notifications/prompts/list_changed",
        "notifications/resources/list_changed",
    }
)
