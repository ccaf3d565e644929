"""The filter of a modern subscription: which changes its client wants, and which of them the server reports. No I/O."""

from __future__ import annotations

from . import jsonrpc
from .jsonrpc import Message
from .mcp import LIST_CHANGES


def all_list_changes(capabilities: Message) -> Message:
    """The filter of a subscription to every list whose changes this server reports."""
    return {
        name: True
        for name, (_, feature) in LIST_CHANGES.items()
        if isinstance(offered := capabilities.get(feature), dict) and offered.get("listChanged") is True
    }


def honoured(wanted: Message, capabilities: Message) -> Message:
    """The part of a subscription's filter that a server with these capabilities supports."""
    kept: Message = {
        name: True
        for name, (_, feature) in LIST_CHANGES.items()
        if wanted.get(name) is True and _offers(capabilities, feature, "listChanged")
    }
    uris = wanted.get("resourceSubscriptions")
    if isinstance(uris, list) and _offers(capabilities, "resources", "subscribe"):
        kept["resourceSubscriptions"] = [uri for uri in uris if isinstance(uri, str)]
    return kept


def concerns(message: Message, kept: Message) -> bool:
    """Whether a change is one that a subscription asked for."""
    if message["method"] == "notifications/resources/updated":
        return jsonrpc.params_of(message).get("uri") in kept.get("resourceSubscriptions", ())
    return any(message["method"] == method for name, (method, _) in LIST_CHANGES.items() if name in kept)


def _offers(capabilities: Message, feature: str, part: str) -> bool:
    value = capabilities.get(feature)
    return isinstance(value, dict) and value.get(part) is True
