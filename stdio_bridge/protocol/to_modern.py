"""Translations to the modern era: requests of a legacy client, answers and requests of a legacy server. No I/O."""

from __future__ import annotations

from . import jsonrpc
from .jsonrpc import Message
from .mcp import (
    CACHEABLE,
    CLIENT_CAPABILITIES,
    CLIENT_INFO,
    LEGACY_RESOURCE_NOT_FOUND,
    LEGACY_URL_ELICITATION_REQUIRED,
    LOG_LEVEL,
    MODERN_VERSIONS,
    PROTOCOL_VERSION,
    RESERVED_CODES,
    SERVER_INFO,
    Versions,
    crossing_client_capabilities,
    crossing_server_capabilities,
)

# For a client that has set no level: a modern server sends no log messages unless a request sets one.
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


def answer(message: Message, method: str, server_info: object) -> Message:
    """The answer of a legacy server as a modern answer, with all members that one must have."""
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
    """The URL elicitations that a 2025-11-25 server requires before the client repeats its call."""
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


def input_response(asked: Message, answer: Message) -> Message | None:
    """A client's answer as one of `inputResponses`; None for an error that the call cannot continue with."""
    result = answer.get("result")
    if isinstance(result, dict):
        return result
    # An elicitation has a regular answer that means the user gave none.
    return {"action": "cancel"} if asked["method"] == "elicitation/create" else None


def discovery(initialized: Message, versions: Versions) -> Message:
    """The result of `server/discover`, from that of `initialize`."""
    found: Message = {
        "supportedVersions": list(versions.offered),
        "capabilities": crossing_server_capabilities(initialized.get("capabilities")),
    }
    if isinstance(initialized.get("instructions"), str):
        found["instructions"] = initialized["instructions"]
    return found
