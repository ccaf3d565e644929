"""Applies the lock of a server's tools to one process: clients see and call only tools that the operator has reviewed.

Before the first use of a tool, the bridge asks the process for all of its tools with the capabilities of the client,
and again after each change that the process reports. It removes tools that differ from the lists that clients get.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from stdio_bridge.io.event_loop import Loop
from stdio_bridge.io.log_handler import LimitedLog
from stdio_bridge.io.metrics import Registry
from stdio_bridge.protocol import jsonrpc, visible_json
from stdio_bridge.protocol.calls import CallOutcome, Purpose
from stdio_bridge.protocol.jsonrpc import Message
from stdio_bridge.protocol.mcp import CLIENT_CAPABILITIES, LISTEN, MAX_KEPT_CHARACTERS, PROTOCOL_VERSION
from stdio_bridge.protocol.policy import Primitive, unknown
from stdio_bridge.protocol.tool_catalog import next_cursor
from stdio_bridge.protocol.tool_lock import Reason, ToolLock

from .dispatcher import Dispatcher
from .handshake import own_meta

log = logging.getLogger(__name__)

_CALL = "tools/call"
_LIST = "tools/list"
_CHANGED = "notifications/tools/list_changed"
_MAX_PAGES = 1000
_MAX_BYTES = 32 << 20
# How many lists of one process are kept: a modern server may have different tools for each set of capabilities.
_MAX_VIEWS = 32
_MAX_NAMED = 1000
_LOGGED_PER_SECOND = 10
_SHOWN_CHARACTERS = 100
HIDING = (Reason.NEW, Reason.CHANGED, Reason.DUPLICATE)


class HiddenTools:
    """The tools that the lock hides, as the newest complete list of any process of one bridge shows them."""

    def __init__(self, lock: ToolLock, loop: Loop, registry: Registry) -> None:
        self.lock = lock
        self.loop = loop
        self._log = LimitedLog(log, loop.clock, per_second=_LOGGED_PER_SECOND)
        self._hidden: dict[str, Reason] = {}
        self._counts: Counter[Reason] = Counter()
        description = "Tools that are hidden because of the lock, in the newest list of a server process"
        registry.gauges("mcp_bridge_hidden_tools", description, "reason", self._read)

    def _read(self) -> Mapping[str, float]:
        return {reason.value: self._counts[reason] for reason in HIDING}

    def note(self, listing: Listing) -> None:
        """Take a complete list. Logs each tool that was not hidden before, or was hidden for another reason."""
        hidden = listing.reasons
        for name, reason in hidden.items():
            if self._hidden.get(name) is not reason:
                shown = visible_json.render_short(name[:_SHOWN_CHARACTERS])
                self._log.log(logging.WARNING, "hidden tool (%s): %s", reason.value, shown)
        self._hidden = hidden
        self._counts = listing.counts


@dataclass(kw_only=True)
class Listing:
    """All tools of a process, filled page by page.

    `allowed` and `hidden` have tools that are in the lock. `new` has the beginnings of names of some that are not.
    """

    lock: ToolLock
    allowed: set[str] = field(default_factory=set)
    hidden: dict[str, Reason] = field(default_factory=dict)
    new: set[str] = field(default_factory=set)
    counts: Counter[Reason] = field(default_factory=Counter)

    def add(self, tools: object) -> None:
        """Take a page."""
        for tool in tools if isinstance(tools, list) else ():
            name = tool.get("name") if isinstance(tool, dict) else None
            if isinstance(tool, dict) and isinstance(name, str):
                self._add(name, tool)

    @property
    def reasons(self) -> dict[str, Reason]:
        """Why each tool is hidden."""
        return {**dict.fromkeys(self.new, Reason.NEW), **self.hidden}

    def _add(self, name: str, tool: Message) -> None:
        is_repeated = name in self.allowed or name in self.hidden
        reason = self.lock.find_reason(name, tool, is_repeated=is_repeated)
        if reason is None:
            self.allowed.add(name)
        elif reason is Reason.NEW:
            self._add_new(name)
        else:
            self.allowed.discard(name)
            self._hide(name, reason)

    def _add_new(self, name: str) -> None:
        """Count a tool that the lock does not have. One with a long name may be counted more than once."""
        if name not in self.new:
            self.counts[Reason.NEW] += 1
        if len(self.new) < _MAX_NAMED:
            self.new.add(name[:MAX_KEPT_CHARACTERS])

    def _hide(self, name: str, reason: Reason) -> None:
        if (before := self.hidden.get(name)) is not None:
            self.counts[before] -= 1
        self.hidden[name] = reason
        self.counts[reason] += 1


class ToolGate:
    """Checks the messages of clients about tools on their way to one process, and filters its lists of tools."""

    def __init__(self, dispatcher: Dispatcher, hidden_tools: HiddenTools) -> None:
        self._dispatcher = dispatcher
        self._hidden_tools = hidden_tools
        self._lock = hidden_tools.lock
        # Complete lists, by the capabilities that they were requested with.
        self._views: dict[str, Listing] = {}
        self._waiting: dict[str, dict[int, Message]] = {}
        self._sizes: dict[int, int] = {}
        self._changes = 0
        self._is_watching = False

    # What clients send

    def admits(self, message: Message) -> bool:
        """Whether a client's message goes to the server now."""
        method = message.get("method")
        if method is None:
            return True
        if "id" not in message:
            return self._admits_notification(message, method)
        if method == _CALL:
            return self._admits_call(message)
        if method == _LIST:
            return self._find_view(message) is not None
        if method.strip().lower().partition("/")[0] == "tools":
            # An unknown method might use a tool.
            self._refuse(message, jsonrpc.METHOD_NOT_FOUND, "Method not found")
            return False
        return True

    def _admits_notification(self, message: Message, method: str) -> bool:
        if method == "notifications/cancelled":
            request_id = jsonrpc.params_of(message)["requestId"]
            self._sizes.pop(request_id, None)
            return not any(waiting.pop(request_id, None) for waiting in self._waiting.values())
        if method.startswith("notifications/"):
            return True
        self._dispatcher.drop(message, "a request must have an id")
        return False

    def _admits_call(self, message: Message) -> bool:
        name = jsonrpc.params_of(message).get("name")
        if not isinstance(name, str):
            self._refuse(message, jsonrpc.INVALID_PARAMS, "params.name must be a string")
            return False
        if name in self._lock:
            view = self._find_view(message)
            if view is None:
                return False
            if name in view.allowed:
                return True
        code, text = unknown(Primitive.TOOLS, name)
        self._refuse(message, code, text)
        return False

    def _find_view(self, message: Message) -> Listing | None:
        """Return the list for the sender of a request. If there is none yet, the request waits for it."""
        key = _key_of(message)
        view = self._views.get(key)
        if view is None:
            is_asked = key in self._waiting
            self._waiting.setdefault(key, {})[message["id"]] = message
            self._sizes[message["id"]] = len(jsonrpc.encode(message))
            if not is_asked:
                self._list(key, message)
        return view

    def _refuse(self, message: Message, code: int, text: str, outcome: CallOutcome = CallOutcome.DENIED) -> None:
        # Not at once: nothing may be delivered before `Dispatcher.request` has returned.
        response = jsonrpc.error(message["id"], code, text)
        self._hidden_tools.loop.call_soon(lambda: self._dispatcher.answer(response, outcome))

    # What the server has

    def _list(self, key: str, message: Message) -> None:
        """Ask for all tools, with the capabilities of the message's sender."""
        params: Message = {}
        capabilities = jsonrpc.meta_of(message).get(CLIENT_CAPABILITIES)
        if PROTOCOL_VERSION in jsonrpc.meta_of(message):
            params["_meta"] = {**own_meta(), CLIENT_CAPABILITIES: capabilities}
            self._watch()
        _ListRequest(self, self._dispatcher, key, params, Listing(lock=self._lock)).ask()

    def _watch(self) -> None:
        """Subscribe to changes, which a modern server does not report otherwise."""
        if not self._is_watching:
            self._is_watching = True
            params = {"notifications": {"toolsListChanged": True}, "_meta": own_meta()}
            message = {"jsonrpc": "2.0", "id": 0, "method": LISTEN, "params": params}
            self._dispatcher.request(_WATCH, message, _WATCH, Purpose.STREAM)

    @property
    def changes(self) -> int:
        """How often the tools have changed."""
        return self._changes

    def listed(self, key: str, listing: Listing) -> None:
        """Take a complete list, and continue the requests that have waited for it."""
        while len(self._views) >= _MAX_VIEWS:
            del self._views[next(iter(self._views))]
        self._views[key] = listing
        self._hidden_tools.note(listing)
        listing.new.clear()  # they are logged, and not needed any more
        for message in self._take_waiting(key):
            if self.admits(message):
                self._dispatcher.pass_on(message)

    def not_listed(self, key: str, reason: str) -> None:
        """Refuse the requests that have waited for a list."""
        for message in self._take_waiting(key):
            text = f"the MCP server's tools cannot be compared: {reason}"
            self._refuse(message, jsonrpc.INTERNAL_ERROR, text, CallOutcome.ERROR)

    def _take_waiting(self, key: str) -> list[Message]:
        waiting = list(self._waiting.pop(key).values())
        for message in waiting:
            del self._sizes[message["id"]]
        return waiting

    @property
    def held_bytes(self) -> int:
        """How many bytes the requests have that wait for a list."""
        return sum(self._sizes.values())

    def hear(self, message: Message) -> None:
        """Note a message of the server."""
        if message.get("method") == _CHANGED:
            self._forget()

    def _forget(self) -> None:
        self._changes += 1
        self._views.clear()

    def change(self, method: str, answer: Message) -> Message:
        """Return the answer to a client's request without the tools that differ from the lock."""
        result = answer.get("result")
        if method != _LIST or not isinstance(result, dict) or "tools" not in result:
            return answer
        tools = result["tools"] if isinstance(result["tools"], list) else []
        names = Counter(name for tool in tools if isinstance(tool, dict) and isinstance(name := tool.get("name"), str))
        kept = [tool for tool in tools if isinstance(tool, dict) and self._shows(tool, names)]
        return {**answer, "result": {**result, "tools": kept}}

    def _shows(self, tool: Message, names: Counter[str]) -> bool:
        name = tool.get("name")
        if not isinstance(name, str) or name not in self._lock:
            return False
        views = self._views.values()
        shows = self._lock.find_reason(name, tool, is_repeated=names[name] > 1) is None
        if shows and any(view.hidden.get(name) is Reason.DUPLICATE for view in views):
            return False
        if shows != any(name in view.allowed for view in views):
            # The server has changed the tool without a notification. The bridge asks again before the next call.
            self._forget()
        return shows


class _ListRequest:
    """Asks a server for its tools page by page, and begins again if they change meanwhile."""

    def __init__(self, gate: ToolGate, dispatcher: Dispatcher, key: str, params: Message, listing: Listing) -> None:
        self._gate = gate
        self._dispatcher = dispatcher
        self._key = key
        self._params = params
        self._listing = listing
        self._changes = gate.changes
        self._pages = 0
        self._bytes = 0

    def ask(self, cursor: str | None = None) -> None:
        """Ask for the page that begins there."""
        self._pages += 1
        if self._pages > _MAX_PAGES or self._bytes > _MAX_BYTES:
            self._gate.not_listed(self._key, "it lists too many, or changes them all the time")
            return
        page = {} if cursor is None else {"cursor": cursor}
        self._dispatcher.ask(_LIST, {**self._params, **page}, self._take)

    def _take(self, answer: Message) -> None:
        error, result = answer.get("error"), answer.get("result")
        self._bytes += len(jsonrpc.encode(answer))
        if self._changes != self._gate.changes:
            self._changes = self._gate.changes
            self._listing = Listing(lock=self._listing.lock)
            self.ask()
        elif isinstance(result, dict) and isinstance(result.get("tools"), list):
            self._listing.add(result["tools"])
            following = next_cursor(result)
            if following is None:
                self._gate.listed(self._key, self._listing)
            else:
                self.ask(following)
        elif isinstance(error, dict) and error.get("code") == jsonrpc.METHOD_NOT_FOUND:
            self._gate.listed(self._key, self._listing)  # it has none
        else:
            text = error.get("message") if isinstance(error, dict) else None
            self._gate.not_listed(self._key, text if isinstance(text, str) else "it does not list them")


class _Watch:
    """The bridge's own subscription to changes of the tools. The gate sees them in `hear`, like every message."""

    def receive(self, message: Message) -> None:
        """Ignore messages that name no subscription."""

    def send(self, message: Message) -> None:
        """Ignore what the subscription brings."""

    def finish(self, message: Message, outcome: CallOutcome | None = None) -> None:
        """Ignore that the server does not support this subscription."""


_WATCH = _Watch()


def _key_of(message: Message) -> str:
    """Return a key for the list that a sender gets: a modern server may choose it by the sender's capabilities."""
    meta = jsonrpc.meta_of(message)
    if PROTOCOL_VERSION not in meta:
        return ""
    return hashlib.sha256(json.dumps(meta.get(CLIENT_CAPABILITIES), sort_keys=True).encode("ascii")).hexdigest()
