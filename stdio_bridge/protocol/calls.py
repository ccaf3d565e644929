"""Calls in flight: which client sent each, what it is for, and how long it may take. No I/O."""

from __future__ import annotations

import enum
from collections.abc import Hashable, Iterator
from dataclasses import dataclass

from . import jsonrpc
from .jsonrpc import RequestId


class CallOutcome(enum.StrEnum):
    """How a call ended."""

    OK = "ok"
    TOOL_ERROR = "tool_error"
    """The tool says of its own result that it is an error."""
    ERROR = "error"
    DENIED = "denied"
    OVER_QUOTA = "over_quota"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    SERVER_EXIT = "server_exit"
    """The server ended before it answered."""
    CLIENT_GONE = "client_gone"
    """The client left before it had the answer."""


class Purpose(enum.Enum):
    """What a call is for."""

    CALL = enum.auto()
    """A client's request. Other messages of the server may be about it."""
    INTERNAL = enum.auto()
    """The bridge's own request. No other message of the server is about it."""
    STREAM = enum.auto()
    """A subscription. It has no time-out, and only messages that name it are about it."""


@dataclass(eq=False, slots=True, kw_only=True)
class Call:
    """A client's request that the server has not answered yet, without its parameters, which may be large.

    `request_id` and `progress_token` are those that the client wrote; the server sees `wire_id` in place of both.
    `subscribes_to` is a URI.
    """

    client: Hashable
    request_id: RequestId
    method: str
    progress_token: object
    purpose: Purpose
    wire_id: int
    deadline: float
    last_deadline: float
    idle_timeout: float
    subscribes_to: str | None = None


@dataclass(frozen=True, kw_only=True)
class CallTimeouts:
    """How long a call may take, in seconds: since it began or last made progress, and altogether."""

    idle: float
    total: float


class CallsInFlight:
    """The calls that the server has not answered, by the id that the server sees, and by client."""

    def __init__(self) -> None:
        self._by_id: dict[int, Call] = {}
        self._of_client: dict[Hashable, dict[int, Call]] = {}
        self.requests_of_clients = 0
        """How many of them are calls of clients, without subscriptions and the bridge's own requests."""

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Call]:
        return iter(self._by_id.values())

    def add(self, call: Call) -> None:
        """Add a call that is sent to the server."""
        self._by_id[call.wire_id] = call
        self._of_client.setdefault(call.client, {})[call.wire_id] = call
        self.requests_of_clients += call.purpose is Purpose.CALL

    def find(self, wire_id: object) -> Call | None:
        """Return the call that the server means by an id or a token."""
        number = wire_id if type(wire_id) is int else jsonrpc.find_number(wire_id)
        return None if number is None else self._by_id.get(number)

    def take(self, wire_id: object) -> Call | None:
        """Remove the call that the server means, and return it."""
        call = self.find(wire_id)
        if call is not None:
            del self._by_id[call.wire_id]
            self.requests_of_clients -= call.purpose is Purpose.CALL
            calls = self._of_client[call.client]
            del calls[call.wire_id]
            if not calls:
                del self._of_client[call.client]
        return call

    def clear(self) -> list[Call]:
        """Remove all, and return them."""
        calls = list(self._by_id.values())
        self._by_id.clear()
        self._of_client.clear()
        self.requests_of_clients = 0
        return calls

    def of(self, client: Hashable) -> list[Call]:
        """Return a client's calls, for whatever purpose."""
        return list(self._of_client.get(client, {}).values())

    def callers(self) -> list[Hashable]:
        """Return the clients that have calls of Purpose.CALL, the newest caller last."""
        newest = {client: max(numbers) for client in self._of_client if (numbers := self._numbers_of(client))}
        return sorted(newest, key=newest.__getitem__)

    def only_one_of(self, client: Hashable) -> Call | None:
        """Return the call that a message to this client is delivered with: its only call, None if it has several."""
        numbers = self._numbers_of(client)
        return self._by_id[numbers[0]] if len(numbers) == 1 else None

    def _numbers_of(self, client: Hashable) -> list[int]:
        calls = self._of_client.get(client, {})
        return [number for number, call in calls.items() if call.purpose is Purpose.CALL]
