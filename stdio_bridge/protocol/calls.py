"""A call: which client sent it, what it is for, and how long it may take. No I/O."""

from __future__ import annotations

import enum
from collections.abc import Hashable
from dataclasses import dataclass

from .jsonrpc import RequestId


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

    client: Hashable
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
