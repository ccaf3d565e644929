"""A lease: the right of a session, a user or a group of sessions and calls to a server process."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass

from stdio_bridge.http.identity import Identity

from .dispatcher import Dispatcher
from .handshake import EraCache
from .pool import EVICTED, ServerPool
from .suspended_calls import SuspendedCalls


@dataclass(frozen=True, kw_only=True)
class LeaseParts:
    """What all leases of a bridge share."""

    pool: ServerPool
    era_cache: EraCache
    suspended_calls: SuspendedCalls


class ServerLease(abc.ABC):
    """The lease of one server process. Raises HttpError if no process may start."""

    def __init__(
        self, parts: LeaseParts, user: str, identity: Identity, *, forget: Callable[[ServerLease], None]
    ) -> None:
        """`forget` is called when the server ends. `identity` is that of the client that the server is started for."""
        self._parts = parts
        self._forget = forget
        self.user = user
        """The user whose limit counts its process."""
        self._server = parts.pool.start(self, self._ended, identity)
        self.last_used = parts.pool.loop.clock()

    @property
    def dispatcher(self) -> Dispatcher:
        """The conversation with the server."""
        return self._server.dispatcher

    @property
    def ending(self) -> bool:
        """Whether it takes no new clients."""
        return self._server.ending or self._server.is_due(self._parts.pool.loop.clock())

    def check_room(self, calls: int = 1) -> None:
        """Raise HttpError if the server can take no more calls."""
        self._server.check_room(calls)

    @property
    @abc.abstractmethod
    def idle_since(self) -> float | None:
        """When it was last used; None while it is in use."""

    @property
    @abc.abstractmethod
    def seconds_in_use(self) -> float:
        """About how long it will be in use; infinite if that is unknown."""

    def evict(self) -> None:
        """End the server, so that another can start."""
        self._server.stop(EVICTED)

    @abc.abstractmethod
    def tick(self, now: float) -> None:
        """End a server that has been idle for too long."""

    @abc.abstractmethod
    def _ended(self, reason: str) -> None:
        """Handle that the server is gone."""
