"""The events that `connection` returns for each input. The dispatcher carries them out in this order. No I/O."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from .calls import Call, CallOutcome
from .jsonrpc import Message


@dataclass(frozen=True, slots=True)
class ToServer:
    """Write this message to the server."""

    message: Message


@dataclass(frozen=True, slots=True)
class Answer:
    """The call is over, with this response, which has the client's own id.

    `outcome` is set where the server has not answered, and the bridge has made the response.
    """

    call: Call
    message: Message
    outcome: CallOutcome | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """The server sends this for one call before its answer: progress, or a message of a subscription."""

    call: Call
    message: Message


@dataclass(frozen=True, slots=True)
class ServerRequest:
    """The server sends this client a request, delivered with the client's call where there is just one."""

    client: Hashable
    call: Call | None
    message: Message


@dataclass(frozen=True, slots=True)
class Notification:
    """The server sends this client a notification that names no call, delivered with its call if there is just one."""

    client: Hashable
    call: Call | None
    message: Message


@dataclass(frozen=True, slots=True)
class Dropped:
    """A message is dropped. The reason holds neither parameters nor results, which are private."""

    reason: str


@dataclass(frozen=True, slots=True)
class Closed:
    """The server is gone: there will be no more events."""

    reason: str


Event = ToServer | Answer | Progress | ServerRequest | Notification | Dropped | Closed


def dropped(message: Message, reason: str) -> Dropped:
    """Make the event for a dropped message."""
    return Dropped(f"{message.get('method', 'an answer')}: {reason}")
