"""Translation for modern clients of a legacy server: requests to legacy, answers back to modern. No I/O."""

from __future__ import annotations

from . import jsonrpc
from .jsonrpc import Message
from .mcp import (
    CACHEABLE,
    LEGACY_RESOURCE_NOT_FOUND,
    LEGACY_URL_ELICITATION_REQUIRED,
    LIST_CHANGES,
    LOG_LEVELS,
    META_PREFIX,
    RESERVED_CODES,
    SERVER_INFO,
    Versions,
    crossing_client_capabilities,
    crossing_server_capabilities,
)
from .request_metadata import RequestMetadata

OWN_INFO = {"name": "mcp-stdio-bridge", "version": "1"}
_INPUT_PARAMS = frozenset({"inputResponses", "requestState"})


def capabilities_of(metadata: RequestMetadata) -> Message:
    """Pick what a legacy server can make use of among the client's capabilities."""
    return crossing_client_capabilities(metadata.capabilities)


def initialize_params(metadata: RequestMetadata | None, version: str) -> Message:
    """Params of `initialize` in the name of a modern request's client; without one in the bridge's own."""
    info = metadata.client_info if metadata is not None else {}
    named = isinstance(info.get("name"), str) and isinstance(info.get("version"), str)
    return {
        "protocolVersion": version,
        "capabilities": capabilities_of(metadata) if metadata is not None else {},
        "clientInfo": info if named else OWN_INFO,
    }


def request_for(message: Message) -> Message:
    """The request without what only modern servers know."""
    params = {name: value for name, value in jsonrpc.params_of(message).items() if name not in _INPUT_PARAMS}
    meta = {name: value for name, value in jsonrpc.meta_of(message).items() if not name.startswith(META_PREFIX)}
    params.pop("_meta", None)
    return {**message, "params": {**params, "_meta": meta} if meta else params}


def answer_from(message: Message, method: str, server_info: object) -> Message:
    """The answer of a legacy server as a modern one, and complete."""
    if "error" in message:
        return _error_from(message)
    result = message["result"]
    if not isinstance(result, dict):
        return jsonrpc.error(message["id"], jsonrpc.INTERNAL_ERROR, "the MCP server's result is not an object")
    meta = result.get("_meta")
    identified = {**(meta if isinstance(meta, dict) else {}), SERVER_INFO: server_info}
    return {**message, "result": completed({**result, "_meta": identified}, method)}


def completed(result: Message, method: str) -> Message:
    """Add the members that every modern result must have, where they are missing."""
    result = {"resultType": "complete", **result}
    if method in CACHEABLE and result["resultType"] == "complete":
        result = {"ttlMs": 0, "cacheScope": "private", **result}
    return result


def _error_from(message: Message) -> Message:
    error = message["error"]
    code = error.get("code")
    if code == LEGACY_URL_ELICITATION_REQUIRED and (requests := _elicitations(error.get("data"))):
        return jsonrpc.result(message["id"], {"resultType": "input_required", "inputRequests": requests})
    if code == LEGACY_RESOURCE_NOT_FOUND:
        code = jsonrpc.INVALID_PARAMS
    elif code in RESERVED_CODES or code == LEGACY_URL_ELICITATION_REQUIRED:
        code = jsonrpc.INTERNAL_ERROR
    return {**message, "error": {**error, "code": code}}


def _elicitations(data: object) -> Message:
    """The links that a 2025-11-25 server wants visited first; the call is then repeated."""
    wanted = data.get("elicitations") if isinstance(data, dict) else None
    if not isinstance(wanted, list):
        return {}
    return {
        f"u{number}": input_request({"method": "elicitation/create", "params": params})
        for number, params in enumerate(wanted)
        if isinstance(params, dict)
    }


def input_request(request: Message) -> Message:
    """A legacy server's request as it stands among `inputRequests`."""
    params = {
        name: value for name, value in jsonrpc.params_of(request).items() if name not in {"elicitationId", "_meta"}
    }
    return {"method": request["method"], "params": params}


def discovery(initialized: Message, versions: Versions) -> Message:
    """The result of `server/discover`, from that of `initialize`."""
    found: Message = {
        "supportedVersions": list(versions.offered),
        "capabilities": crossing_server_capabilities(initialized.get("capabilities")),
    }
    if isinstance(initialized.get("instructions"), str):
        found["instructions"] = initialized["instructions"]
    return found


def honoured(wanted: Message, capabilities: Message) -> Message:
    """The part of a subscription's filter that a server with these capabilities can keep."""
    kept: Message = {
        name: True
        for name, (_, feature) in LIST_CHANGES.items()
        if wanted.get(name) is True and _offers(capabilities, feature, "listChanged")
    }
    uris = wanted.get("resourceSubscriptions")
    if isinstance(uris, list) and _offers(capabilities, "resources", "subscribe"):
        kept["resourceSubscriptions"] = [uri for uri in uris if isinstance(uri, str)]
    return kept


def _offers(capabilities: Message, feature: str, part: str) -> bool:
    value = capabilities.get(feature)
    return isinstance(value, dict) and value.get(part) is True


def concerns(message: Message, kept: Message) -> bool:
    """Whether a change is one that a subscription asked for."""
    if message["method"] == "notifications/resources/updated":
        return jsonrpc.params_of(message).get("uri") in kept.get("resourceSubscriptions", ())
    return any(message["method"] == method for name, (method, _) in LIST_CHANGES.items() if name in kept)


def reaches(level: object, wanted: str | None) -> bool:
    """Whether a log message of this level is at least of the level that was asked for."""
    if wanted is None or level not in LOG_LEVELS:
        return False
    return LOG_LEVELS.index(str(level)) >= LOG_LEVELS.index(wanted)
