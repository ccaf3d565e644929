"""The parts of a conversation with a server: who calls, what for, and where the answer goes. No I/O."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from .jsonrpc import Message, RequestId


class Reply(Protocol):
    """Where the answer to one request goes."""

    def send(self, message: Message) -> None:
        """Say something before the answer."""

    def finish(self, message: Message) -> None:
        """Answer."""


class Client(Protocol):
    """Someone for whom a connection speaks to the server."""

    def receive(self, message: Message) -> None:
        """Take a message of the server that belongs to no call."""


class Purpose(enum.Enum):
    """What a call is for."""

    CALL = enum.auto()
    """A client's request: what else the server says may be about it."""
    INTERNAL = enum.auto()
    """The bridge's own question: nothing else that the server says is about it."""
    STREAM = enum.auto()
    """A subscription: it has no time-out, and only what names it is about it."""


@dataclass(eq=False, slots=True, kw_only=True)
class Call:
    """A client's request that the server has not answered yet: what is needed of it, as all of it may be large.

    `client_id` is its id as the client wrote it, as `progress_token` is its token; `subscribes_to` is a URI.
    """

    client: Client
    reply: Reply
    client_id: RequestId
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
    """How long a call may take, in seconds: since it began or last made progress, and in all."""

    idle: float
    total: float


class Nobody:
    """The client of the bridge's own questions, whom nothing else concerns."""

    def receive(self, message: Message) -> None:
        """Take no notice."""


class Callback:
    """Gives an answer to a function, and takes no notice of what comes before it."""

    def __init__(self, answered: Callable[[Message], None]) -> None:
        self._answered = answered

    def send(self, message: Message) -> None:
        """Take no notice."""

    def finish(self, message: Message) -> None:
        """Pass the answer on."""
        self._answered(message)
