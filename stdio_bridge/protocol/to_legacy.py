"""Translations to the legacy era: requests of a modern client, answers and changes of a modern server. No I/O."""

from __future__ import annotations

from . import jsonrpc
from .jsonrpc import Message
from .mcp import (
    LEGACY_VERSIONS,
    META_PREFIX,
    OWN_INFO,
    RESERVED_CODES,
    SERVER_INFO,
    SUBSCRIPTION_ID,
    crossing_client_capabilities,
    crossing_server_capabilities,
)
from .request_metadata import RequestMetadata

_INPUT_PARAMS = frozenset({"inputResponses", "requestState"})
_OF_MODERN_RESULTS = frozenset({"resultType", "ttlMs", "cacheScope"})


def client_capabilities(metadata: RequestMetadata) -> Message:
    """Return those of the client's capabilities that a legacy server understands."""
    return crossing_client_capabilities(metadata.capabilities)


def initialize_params(metadata: RequestMetadata | None, version: str) -> Message:
    """The params of `initialize` for the client of a modern request; without a request, for the bridge itself."""
    info = metadata.client_info if metadata is not None else {}
    named = isinstance(info.get("name"), str) and isinstance(info.get("version"), str)
    return {
        "protocolVersion": version,
        "capabilities": client_capabilities(metadata) if metadata is not None else {},
        "clientInfo": info if named else OWN_INFO,
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


def request(message: Message) -> Message:
    """A request without the members that only modern servers know."""
    params = {name: value for name, value in jsonrpc.params_of(message).items() if name not in _INPUT_PARAMS}
    meta = {name: value for name, value in jsonrpc.meta_of(message).items() if not name.startswith(META_PREFIX)}
    params.pop("_meta", None)
    return {**message, "params": {**params, "_meta": meta} if meta else params}


def answer(message: Message) -> Message:
    """An answer without the members and error codes that only modern clients know."""
    result, error = message.get("result"), message.get("error")
    if isinstance(result, dict):
        return {**message, "result": {name: v for name, v in result.items() if name not in _OF_MODERN_RESULTS}}
    if isinstance(error, dict) and error.get("code") in RESERVED_CODES:
        return {**message, "error": {**error, "code": jsonrpc.INTERNAL_ERROR}}
    return message


def change(message: Message) -> Message:
    """A notification of a subscription as a legacy server sends it, which has no subscriptions."""
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
