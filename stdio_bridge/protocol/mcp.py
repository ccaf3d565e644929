"""Names and numbers of MCP that both eras' code needs. No I/O."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from .jsonrpc import Message

LEGACY_VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
MODERN_VERSIONS = ("2026-07-28",)
OWN_INFO = {"name": "mcp-stdio-bridge", "version": "1"}
# The longest name or id of a server's choice that the bridge remembers: a message may be far larger.
MAX_KEPT_CHARACTERS = 256
ALL_VERSIONS = (*MODERN_VERSIONS, *reversed(LEGACY_VERSIONS))


@dataclass(frozen=True, kw_only=True)
class Versions:
    """The revisions that are offered to clients, newest first, and the one that a server is initialized with.

    If `server` is None, the server is initialized with the revision that its client asks for.
    """

    offered: tuple[str, ...] = ALL_VERSIONS
    server: str | None = None

    @functools.cached_property
    def legacy(self) -> tuple[str, ...]:
        """Those that begin with `initialize`, oldest first."""
        return tuple(version for version in LEGACY_VERSIONS if version in self.offered)

    @property
    def of_own_initialize(self) -> str:
        """The revision that the bridge asks for when it initializes a server without a client."""
        return self.server or LEGACY_VERSIONS[-1]

    def to_server(self, asked: str) -> str:
        """The revision to ask a server for when its client asks for `asked`."""
        return self.server or (asked if asked in self.legacy else self.legacy[-1])

    def to_client(self, asked: object, answered: str) -> str:
        """The revision to answer a client that has asked for `asked`, when the server has answered `answered`.

        The older of the two, as a newer revision only adds to it; and never one that is not offered.
        """
        wanted = asked if isinstance(asked, str) and asked in self.legacy else None
        told = wanted if wanted is not None and wanted < answered else answered
        return told if told in self.legacy else wanted or self.legacy[-1]


HEADER_MISMATCH = -32020
MISSING_CAPABILITY = -32021
UNSUPPORTED_VERSION = -32022
# The specification reserves these codes: a server of another era that uses one means something else by it.
RESERVED_CODES = range(-32099, -32019)
# Codes that legacy servers use and modern servers must not (2026-07-28, "Error Codes").
LEGACY_RESOURCE_NOT_FOUND = -32002
LEGACY_URL_ELICITATION_REQUIRED = -32042

META_PREFIX = "io.modelcontextprotocol/"
PROTOCOL_VERSION = META_PREFIX + "protocolVersion"
CLIENT_INFO = META_PREFIX + "clientInfo"
CLIENT_CAPABILITIES = META_PREFIX + "clientCapabilities"
LOG_LEVEL = META_PREFIX + "logLevel"
SUBSCRIPTION_ID = META_PREFIX + "subscriptionId"
SERVER_INFO = META_PREFIX + "serverInfo"

LOG_LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")

# Methods that 2026-07-28 removed. A modern client's are never passed on: a dual-era server might still serve them.
REMOVED = frozenset({"initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"})
# The parameter that names what a request uses, by its method.
USED_PARAMETERS = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "resources/subscribe": "uri",
    "resources/unsubscribe": "uri",
}
# The parameter that `Mcp-Name` repeats, by the request's method.
NAMED_BY = {method: parameter for method, parameter in USED_PARAMETERS.items() if method not in REMOVED}
# Those that may be answered with InputRequiredResult (2026-07-28, "Supported Requests"): the same three.
MAY_NEED_INPUT = frozenset(NAMED_BY)
CACHEABLE = frozenset(
    {
        "server/discover",
        "tools/list",
        "prompts/list",
        "resources/list",
        "resources/templates/list",
        "resources/read",
    }
)

LISTEN = "subscriptions/listen"
# Every request of a client, in all revisions and in the extension for tasks.
METHODS = frozenset(
    {
        *REMOVED,
        *CACHEABLE,
        *NAMED_BY,
        LISTEN,
        "completion/complete",
        "tasks/get",
        "tasks/result",
        "tasks/list",
        "tasks/cancel",
        "tasks/update",
    }
)
_CLIENT_CAPABILITIES = ("elicitation", "experimental", "roots", "sampling")
# `tasks` of 2025-11-25 is another protocol than the extension of that name.
_SERVER_CAPABILITIES = ("completions", "experimental", "logging", "prompts", "resources", "tools")
# Extensions that use only `_meta` and resources, so that they mean the same in both eras. Others may add result types
# and messages, as the extension for tasks does, and a client of the other era would misunderstand these.
_CROSSING_EXTENSIONS = frozenset({"io.modelcontextprotocol/ui"})
# Filter of `subscriptions/listen` -> notification, and the server's capability to send it.
LIST_CHANGES = {
    "toolsListChanged": ("notifications/tools/list_changed", "tools"),
    "promptsListChanged": ("notifications/prompts/list_changed", "prompts"),
    "resourcesListChanged": ("notifications/resources/list_changed", "resources"),
}


def fold_method(method: str) -> str:
    """Return the method as a server sees it that ignores case and spaces."""
    return method.strip().lower()


def without_task_tools(answer: Message) -> Message:
    """Remove from an answer to `tools/list` the tools that only a client with the tasks of 2025-11-25 can call."""
    result = answer.get("result")
    tools = result.get("tools") if isinstance(result, dict) else None
    if not isinstance(result, dict) or not isinstance(tools, list):
        return answer
    callable_tools = [tool for tool in tools if not _needs_task(tool)]
    return answer if len(callable_tools) == len(tools) else {**answer, "result": {**result, "tools": callable_tools}}


def _needs_task(tool: object) -> bool:
    execution = tool.get("execution") if isinstance(tool, dict) else None
    return isinstance(execution, dict) and execution.get("taskSupport") == "required"


def crossing_client_capabilities(declared: object) -> Message:
    """Return those of a client's capabilities that a server of the other era understands."""
    return _crossing(declared, _CLIENT_CAPABILITIES)


def crossing_server_capabilities(declared: object) -> Message:
    """Return those of a server's capabilities that a client of the other era understands."""
    return _crossing(declared, _SERVER_CAPABILITIES)


def _crossing(declared: object, names: tuple[str, ...]) -> Message:
    if not isinstance(declared, dict):
        return {}
    kept: Message = {name: value for name in names if isinstance(value := declared.get(name), dict)}
    offered = declared.get("extensions")
    extensions = {
        name: settings
        for name, settings in (offered.items() if isinstance(offered, dict) else ())
        if name in _CROSSING_EXTENSIONS and isinstance(settings, dict)
    }
    return {**kept, "extensions": extensions} if extensions else kept
