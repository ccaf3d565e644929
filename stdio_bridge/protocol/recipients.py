"""The recipients of a server's message that names no call. No I/O.

- No user learns what another does: where a message may be for clients of several users, none of them gets it.
- A request goes to one client that has declared support for it; a notification goes to all clients of the user.
- A change of a resource goes to its subscribers; a change of the lists goes to every client.
"""

from __future__ import annotations

import collections
from collections.abc import Collection, Hashable
from dataclasses import dataclass

from . import jsonrpc
from .jsonrpc import Message

# Subscriptions are kept as long as their client stays: this bounds the memory for the URIs of one client.
MAX_URI_BYTES = 1 << 20
_BYTES_PER_URI = 256
TOO_MANY_SUBSCRIPTIONS = "too many resources are subscribed to: unsubscribe from others first"
# `tasks/` of 2025-11-25: the server asks about a request that the client runs as a task.
_CAPABILITY_FOR = {
    **dict.fromkeys(("tasks/get", "tasks/result", "tasks/list", "tasks/cancel"), "tasks"),
    "sampling/createMessage": "sampling",
    "elicitation/create": "elicitation",
    "roots/list": "roots",
}


def declared_by(initialize: Message) -> frozenset[str]:
    """The capabilities that a client declares, and their parts, such as `elicitation.url`."""
    declared = jsonrpc.params_of(initialize).get("capabilities")
    capabilities = declared if isinstance(declared, dict) else {}
    parts = {f"{name}.{part}" for name, value in capabilities.items() if isinstance(value, dict) for part in value}
    return frozenset(capabilities) | parts


def _needed_for(request: Message) -> set[str]:
    capability = _CAPABILITY_FOR.get(request["method"])
    params = jsonrpc.params_of(request)
    if capability is None:
        return set()
    if capability == "elicitation" and params.get("mode") == "url":
        return {capability, "elicitation.url"}
    if capability == "sampling" and "tools" in params:
        return {capability, "sampling.tools"}
    return {capability}


def size_of(uri: str) -> int:
    """About how many bytes it takes to remember a URI."""
    return len(uri) + _BYTES_PER_URI


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A client's user and its declared capabilities; None means that the server may ask it for anything."""

    user: object
    capabilities: frozenset[str] | None


class Recipients:
    """The clients of one server."""

    def __init__(self) -> None:
        self._members: dict[Hashable, Member] = {}
        self._subscribers: dict[str, dict[Hashable, None]] = {}
        self._uri_bytes: collections.Counter[Hashable] = collections.Counter()
        self._last_to_speak: Hashable | None = None

    @property
    def members(self) -> list[Hashable]:
        """All clients that have joined."""
        return list(self._members)

    def join(self, client: Hashable, *, user: object, capabilities: frozenset[str] | None) -> None:
        """Add a client."""
        self._members[client] = Member(user=user, capabilities=capabilities)

    def leave(self, client: Hashable) -> list[str]:
        """Remove a client. Returns the resources that have no subscriber left."""
        self._members.pop(client, None)
        if self._last_to_speak is client:
            self._last_to_speak = None
        unwatched = [uri for uri in list(self._subscribers) if self.unsubscribe(client, uri)]
        del self._uri_bytes[client]
        return unwatched

    def spoke(self, client: Hashable) -> None:
        """Note that a client sent a message: the server's next request may be about it."""
        if client in self._members:
            self._last_to_speak = client

    def has_room_for(self, client: Hashable, uri: str) -> bool:
        """Whether a client may subscribe to a resource. It may if it is subscribed already."""
        return client in self._subscribers.get(uri, ()) or self._uri_bytes[client] + size_of(uri) <= MAX_URI_BYTES

    def subscribe(self, client: Hashable, uri: str) -> None:
        """Subscribe a client to a resource. A client that has not joined gets no changes."""
        if client in self._members and client not in self._subscribers.setdefault(uri, {}):
            self._subscribers[uri][client] = None
            self._uri_bytes[client] += size_of(uri)

    def unsubscribe(self, client: Hashable, uri: str) -> bool:
        """Unsubscribe a client from a resource. Returns whether it was the last subscriber."""
        subscribers = self._subscribers.get(uri, {})
        if client not in subscribers:
            return False
        del subscribers[client]
        self._uri_bytes[client] -= size_of(uri)
        if subscribers:
            return False
        del self._subscribers[uri]
        return True

    def has_subscribers(self, uri: str) -> bool:
        """Whether a resource has subscribers."""
        return uri in self._subscribers

    def for_update(self, uri: object) -> list[Hashable]:
        """The clients that get the notification that this resource has changed."""
        if isinstance(uri, str) and uri in self._subscribers:
            return list(self._subscribers[uri])
        # Some servers notify without a subscription, which is harmless if there is only one client.
        return self.members if len(self._members) == 1 else []

    def for_notification(self, calling: Collection[Hashable]) -> list[Hashable]:
        """The clients that get a notification that names no call; `calling` are those with calls in flight."""
        possible = list(calling) or self.members
        return possible if self._are_of_one_user(possible) else []

    def for_request(self, request: Message, calling: Collection[Hashable]) -> Hashable | None:
        """The client that is to answer a server's request. `calling` have calls in flight, the newest caller last."""
        needed = _needed_for(request)
        able = [client for client in self.for_notification(calling) if self._declares(client, needed)]
        if not calling and self._last_to_speak in able:
            return self._last_to_speak
        return able[-1] if able else None

    def _declares(self, client: Hashable, needed: set[str]) -> bool:
        member = self._members.get(client)
        return member is None or member.capabilities is None or needed <= member.capabilities

    def _are_of_one_user(self, clients: Collection[Hashable]) -> bool:
        # A client that has not joined counts as a user of its own.
        return len({member.user if (member := self._members.get(client)) else client for client in clients}) == 1
