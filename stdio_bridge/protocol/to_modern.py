"""Translation for legacy clients of a modern server: requests to modern, answers back to legacy. No I/O."""

from __future__ import annotations

from . import jsonrpc
from .jsonrpc import Message
from .mcp import (
    CLIENT_CAPABILITIES,
    CLIENT_INFO,
    LEGACY_VERSIONS,
    LIST_CHANGES,
    LOG_LEVEL,
    MODERN_VERSIONS,
    PROTOCOL_VERSION,
    RESERVED_CODES,
    SERVER_INFO,
    SUBSCRIPTION_ID,
    crossing_client_capabilities,
    crossing_server_capabilities,
)

_OF_MODERN_RESULTS = frozenset({"resultType", "ttlMs", "cacheScope"})
# What a client gets that has set no level: a modern server says nothing unless it is asked to.
_DEFAULT_LEVEL = "info"


def client_meta(initialize: Message) -> Message:
    """The `_meta` of every request of a client, from its `initialize`."""
    params = jsonrpc.params_of(initialize)
    info = params.get("clientInfo")
    return {
        PROTOCOL_VERSION: MODERN_VERSIONS[-1],
        **({CLIENT_INFO: info} if isinstance(info, dict) else {}),
        CLIENT_CAPABILITIES: crossing_client_capabilities(params.get("capabilities")),
        LOG_LEVEL: _DEFAULT_LEVEL,
    }


def initialize_result(initialize: Message, discovered: Message) -> Message:
    """The result of `initialize`, from that of `server/discover`."""
    asked = jsonrpc.params_of(initialize).get("protocolVersion")
    meta = discovered.get("_meta")
    info = meta.get(SERVER_INFO) if isinstance(meta, dict) else None
    found: Message = {
        "protocolVersion": asked if asked in LEGACY_VERSIONS else LEGACY_VERSIONS[-1],
        "capabilities": crossing_server_capabilities(discovered.get("capabilities")),
        "serverInfo": info if isinstance(info, dict) else {"name": "MCP server", "version": "unknown"},
    }
    if isinstance(discovered.get("instructions"), str):
        found["instructions"] = discovered["instructions"]
    return found


def list_changes_of(capabilities: Message) -> Message:
    """The filter of a subscription to every list that this server says may change."""
    return {
        name: True
        for name, (_, feature) in LIST_CHANGES.items()
        if isinstance(offered := capabilities.get(feature), dict) and offered.get("listChanged") is True
    }


def answer_from(message: Message) -> Message:
    """An answer without what only modern clients know."""
    result, error = message.get("result"), message.get("error")
    if isinstance(result, dict):
        return {**message, "result": {name: v for name, v in result.items() if name not in _OF_MODERN_RESULTS}}
    if isinstance(error, dict) and error.get("code") in RESERVED_CODES:
        return {**message, "error": {**error, "code": jsonrpc.INTERNAL_ERROR}}
    return message


def change_from(message: Message) -> Message:
    """A change that a subscription has brought, as it comes without one."""
    params = dict(jsonrpc.params_of(message))
    meta = {name: value for name, value in jsonrpc.meta_of(message).items() if name != SUBSCRIPTION_ID}
    params.pop("_meta", None)
    return {**message, "params": {**params, "_meta": meta} if meta else params}


def server_request(request_id: str, asked: Message) -> Message:
    """One of `inputRequests` as a server's request."""
    params = jsonrpc.params_of(asked)
    if params.get("mode") == "url":
        params = {**params, "elicitationId": request_id}
    return {"jsonrpc": "2.0", "id": request_id, "method": asked["method"], "params": params}


def input_response(asked: Message, answer: Message) -> Message | None:
    """A client's answer as one of `inputResponses`; None where its error leaves nothing to go on with."""
    result = answer.get("result")
    if isinstance(result, dict):
        return result
    # To an elicitation there is an answer that means none was given.
    return {"action": "cancel"} if asked["method"] == "elicitation/create" else None
