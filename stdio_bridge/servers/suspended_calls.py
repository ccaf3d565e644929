"""Suspended calls, which wait until their client retries with the input that a legacy server has asked for."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Protocol

from stdio_bridge.http.identity import Identity
from stdio_bridge.protocol.jsonrpc import Message
from stdio_bridge.protocol.request_state import Claim, RequestStates, refused

from .backend import ModernCaller

_MAX_PER_USER = 100


class SuspendedCall(Protocol):
    """A call that can wait for a retry."""

    def resume(self, modern_call: ModernCaller, responses: Message) -> None:
        """Continue, and answer the retry."""

    def abandon(self) -> None:
        """Cancel the call: its client has not retried in time."""


class SuspendedCalls:
    """The suspended calls of one bridge. Each is consumed once, by a retry of the same request by the same user."""

    def __init__(self, key: bytes, *, seconds: float, clock: Callable[[], float]) -> None:
        self._states = RequestStates(key)
        self._seconds = seconds
        self._clock = clock
        self._suspended: dict[str, tuple[float, str, SuspendedCall]] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._suspended)

    def has_room_for(self, identity: Identity) -> bool:
        """Whether one more call of this user may wait."""
        return (
            not self._closed and sum(user == identity.user for _, user, _ in self._suspended.values()) < _MAX_PER_USER
        )

    def suspend(self, call: SuspendedCall, modern_call: ModernCaller) -> str:
        """Keep a call, and return the state with which a retry continues it."""
        key = secrets.token_urlsafe(16)
        expires = self._clock() + self._seconds
        self._suspended[key] = expires, modern_call.identity.user, call
        user, resource = modern_call.identity.user, modern_call.identity.resource
        claim = Claim(call=key, user=user, resource=resource, request=modern_call.message, expires=expires)
        return self._states.sign(claim)

    def consume(self, unverified_state: object, modern_call: ModernCaller) -> SuspendedCall:
        """Remove and return a call. Raises HttpError if the state is not valid, or no longer."""
        now = self._clock()
        user, resource = modern_call.identity.user, modern_call.identity.resource
        key = self._states.verify(unverified_state, user=user, resource=resource, request=modern_call.message, now=now)
        found = self._suspended.pop(key, None)
        if found is None:
            raise refused("requestState was used already, or its call has ended: send the request again without it")
        return found[2]

    def tick(self, now: float) -> None:
        """Cancel the calls whose client has not retried in time."""
        for key, (expires, _, call) in list(self._suspended.items()):
            if expires <= now:
                del self._suspended[key]
                call.abandon()

    def close(self) -> None:
        """Cancel all calls and suspend no more, so that retries are refused from now on."""
        self._closed = True
        suspended, self._suspended = self._suspended, {}
        for _, _, call in suspended.values():
            call.abandon()
