"""All leases: which server process a session or a call gets, by session, user or capabilities."""

from __future__ import annotations

import json
from dataclasses import dataclass

from stdio_bridge.http.identity import Identity
from stdio_bridge.options import Isolation
from stdio_bridge.protocol.jsonrpc import Message
from stdio_bridge.protocol.to_legacy import client_capabilities

from .backend import ModernCaller
from .call_lease import CallLease
from .handshake import EraCache
from .lease import LeaseParts, ServerLease
from .pool import ServerPool
from .session_lease import SessionLease
from .suspended_calls import SuspendedCalls

_EVERYONE = ""


@dataclass(frozen=True, kw_only=True)
class Key:
    """The key of a shared server.

    Sessions share a server of their user, or of all users. Calls that stand alone have servers of their own: a legacy
    server learns the capabilities of its client once, so a client with other capabilities gets another process and not
    errors. `capabilities` are those of such a client; a modern server serves clients with any.
    """

    user: str
    of_calls: bool
    capabilities: str = ""


class Leases:
    """All leases, by session, user or capabilities."""

    def __init__(self, pool: ServerPool, era_cache: EraCache, suspended_calls: SuspendedCalls) -> None:
        self.pool = pool
        self._parts = LeaseParts(pool=pool, era_cache=era_cache, suspended_calls=suspended_calls)
        self._sessions: dict[SessionLease, None] = {}
        self._calls: dict[CallLease, None] = {}
        self._by_key: dict[Key, ServerLease] = {}

    def of_session(self, identity: Identity, initialize: Message) -> SessionLease:
        """Return the lease for a new session, as the isolation mode requires. Raises HttpError."""
        user = identity.user
        isolation = self.pool.options.isolation
        if isolation is Isolation.PER_SESSION:
            for abandoned in self._sessions:
                if abandoned.is_left_for(user, initialize):
                    return abandoned
            lease = SessionLease(self._parts, user, identity, exclusive=True, forget=self._forget)
        else:
            key = Key(user=user if isolation is Isolation.PER_USER else _EVERYONE, of_calls=False)
            known = self._by_key.get(key)
            if isinstance(known, SessionLease) and not known.ending:
                return known
            lease = self._by_key[key] = SessionLease(
                self._parts, key.user, identity, exclusive=False, forget=self._forget
            )
        self._sessions[lease] = None
        return lease

    def serve(self, client: ModernCaller) -> None:
        """Answer a call by a server of its user. Raises HttpError if no server has room or may start.

        Calls that stand alone have no session, so isolation per session is isolation per user here. With `shared`, all
        clients with the same capabilities share one process.
        """
        key = self._key_of(client)
        lease = self._by_key.get(key)
        if isinstance(lease, CallLease) and not lease.ending:
            lease.check_room()
            lease.serve(client)
        else:
            lease = self._by_key[key] = CallLease(
                self._parts, key.user, client, found_modern=self._serve_all_capabilities, forget=self._forget
            )
            self._calls[lease] = None
            lease.serve(client)
            lease.begin()

    def _key_of(self, client: ModernCaller) -> Key:
        user = _EVERYONE if self.pool.options.isolation is Isolation.SHARED else client.identity.user
        if self._parts.era_cache.modern:
            return Key(user=user, of_calls=True)
        declared = json.dumps(client_capabilities(client.metadata), sort_keys=True)
        return Key(user=user, of_calls=True, capabilities=declared)

    def _serve_all_capabilities(self, lease: CallLease) -> None:
        """Let a server that turns out to be modern serve all clients of its user, whatever their capabilities.

        If the user has such a server already, this one gets no new calls, and ends when it is idle.
        """
        self._take_out(lease)
        self._by_key.setdefault(Key(user=lease.user, of_calls=True), lease)

    def _forget(self, lease: ServerLease) -> None:
        """Forget a server that ends."""
        if isinstance(lease, SessionLease):
            self._sessions.pop(lease, None)
        elif isinstance(lease, CallLease):
            self._calls.pop(lease, None)
        self._take_out(lease)

    def _take_out(self, lease: ServerLease) -> None:
        for key in [key for key, known in self._by_key.items() if known is lease]:
            del self._by_key[key]

    def end_at_once(self, user: str, reason: str) -> None:
        """End all processes of a user, with their sessions, as the user's credentials have changed.

        Those that have not started ask for the credentials again, and their clients wait for that.
        """
        self.pool.end_at_once(user, reason)
        for lease in [*self._sessions, *self._calls]:
            if lease.user == user and lease.ending:
                lease.evict()

    def tick(self, now: float) -> None:
        """End idle servers and sessions, and suspended calls whose client has not retried in time."""
        self._parts.suspended_calls.tick(now)
        for lease in [*self._sessions, *self._calls]:
            lease.tick(now)

    def close(self) -> None:
        """End what would not end by itself: subscriptions, and calls that wait for their client."""
        self._parts.suspended_calls.close()
        for lease in list(self._calls):
            lease.close()
