"""The handshake: finds out once which era of MCP the server speaks, and initializes each process."""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from stdio_bridge.io.event_loop import Loop
from stdio_bridge.protocol import jsonrpc
from stdio_bridge.protocol.calls import CallOutcome, Purpose
from stdio_bridge.protocol.jsonrpc import Message
from stdio_bridge.protocol.mcp import (
    CLIENT_CAPABILITIES,
    CLIENT_INFO,
    MODERN_VERSIONS,
    OWN_INFO,
    PROTOCOL_VERSION,
    UNSUPPORTED_VERSION,
    Versions,
)
from stdio_bridge.protocol.request_metadata import RequestMetadata
from stdio_bridge.protocol.to_legacy import initialize_params

from .dispatcher import Dispatcher

log = logging.getLogger(__name__)

_PROBE_SECONDS = 10.0


class ServerEra(enum.Enum):
    """The eras of MCP that a server speaks."""

    LEGACY = "legacy"
    MODERN = "modern"
    DUAL = "dual"


@dataclass(kw_only=True)
class EraCache:
    """The era of the server, which does not change while the bridge runs."""

    era: ServerEra | None = None
    versions: Versions = field(default_factory=Versions)

    @property
    def modern(self) -> bool | None:
        """Whether it serves modern requests; None while that is not known."""
        return None if self.era is None else self.era is not ServerEra.LEGACY

    def learn(self, *, modern: bool, only: bool = False) -> None:
        """Note the result of a handshake.

        A server that serves modern requests is assumed to serve legacy ones as well, until a handshake shows that it
        serves modern ones `only`.
        """
        if only:
            self.era = ServerEra.MODERN
        elif self.era is None:
            self.era = ServerEra.DUAL if modern else ServerEra.LEGACY
            log.info("the MCP server speaks %s", "2026-07-28" if modern else "legacy versions only")


@dataclass(frozen=True, kw_only=True)
class Modern:
    """The server serves modern requests. `discovered` is the result of `server/discover`, if it was asked."""

    discovered: Message | None


@dataclass(frozen=True, kw_only=True)
class Initialized:
    """The server was initialized as a legacy one, with this result."""

    result: Message


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The server speaks neither era. `message` is its error response, or the bridge's own if it has not answered."""

    message: Message
    outcome: CallOutcome | None


@dataclass(frozen=True, kw_only=True)
class Gone:
    """The process ended on `server/discover`. The caller must start another one, and call `begin_again`."""


Outcome = Modern | Initialized | Failed | Gone


class State(enum.Enum):
    """The requests that the server has not answered yet, and the four results."""

    NEW = enum.auto()
    DISCOVERING = enum.auto()
    """`server/discover` is sent; `initialize` may follow."""
    DISCOVERING_STILL = enum.auto()
    """`server/discover` was not answered in time, so `initialize` is sent as well."""
    REFUSED_EARLY = enum.auto()
    """`initialize` was refused, and `server/discover` is not answered yet."""
    INITIALIZING = enum.auto()
    """`initialize` is sent; the error may show that the server is modern."""
    INITIALIZING_FIRST = enum.auto()
    """`initialize` is sent; `server/discover` may follow."""
    INITIALIZING_ONLY = enum.auto()
    """`initialize` is sent, and nothing follows."""
    DISCOVERING_LAST = enum.auto()
    """`server/discover` is sent, and nothing follows."""
    MODERN = enum.auto()
    INITIALIZED = enum.auto()
    FAILED = enum.auto()
    GONE = enum.auto()


class Input(enum.Enum):
    """The answers of the server, or their absence."""

    DISCOVERED = enum.auto()
    """`server/discover`: an answer that shows a modern server."""
    NOT_DISCOVERED = enum.auto()
    """`server/discover`: any other answer."""
    ENDED = enum.auto()
    """`server/discover`: the process has ended."""
    SLOW = enum.auto()
    """`server/discover`: no answer in time."""
    ACCEPTED = enum.auto()
    """`initialize`: a result."""
    NAMED_MODERN = enum.auto()
    """`initialize`: an UnsupportedProtocolVersionError that names a modern revision."""
    REFUSED = enum.auto()
    """`initialize`: another error."""


# An input that a state does not list comes too late, and changes nothing.
TRANSITIONS: dict[State, dict[Input, State]] = {
    State.DISCOVERING: {
        Input.DISCOVERED: State.MODERN,
        Input.NOT_DISCOVERED: State.INITIALIZING,
        Input.ENDED: State.GONE,
        Input.SLOW: State.DISCOVERING_STILL,
    },
    State.DISCOVERING_STILL: {
        Input.DISCOVERED: State.MODERN,
        Input.NOT_DISCOVERED: State.INITIALIZING,
        Input.ENDED: State.INITIALIZING,
        Input.ACCEPTED: State.INITIALIZED,
        Input.NAMED_MODERN: State.MODERN,
        Input.REFUSED: State.REFUSED_EARLY,
    },
    State.REFUSED_EARLY: {
        Input.DISCOVERED: State.MODERN,
        Input.NOT_DISCOVERED: State.FAILED,
        Input.ENDED: State.FAILED,
    },
    State.INITIALIZING: {
        Input.ACCEPTED: State.INITIALIZED,
        Input.NAMED_MODERN: State.MODERN,
        Input.REFUSED: State.FAILED,
    },
    State.INITIALIZING_FIRST: {
        Input.ACCEPTED: State.INITIALIZED,
        Input.NAMED_MODERN: State.DISCOVERING_LAST,
        Input.REFUSED: State.DISCOVERING_LAST,
    },
    State.INITIALIZING_ONLY: {
        Input.ACCEPTED: State.INITIALIZED,
        Input.NAMED_MODERN: State.FAILED,
        Input.REFUSED: State.FAILED,
    },
    State.DISCOVERING_LAST: {
        Input.DISCOVERED: State.MODERN,
        Input.NOT_DISCOVERED: State.FAILED,
        Input.ENDED: State.FAILED,
    },
}
_ASKS_TO_DISCOVER = frozenset({State.DISCOVERING, State.DISCOVERING_LAST})
_ASKS_TO_INITIALIZE = frozenset(
    {State.DISCOVERING_STILL, State.INITIALIZING, State.INITIALIZING_FIRST, State.INITIALIZING_ONLY}
)
# Where the bridge itself sends `initialize`, for a modern client.
_OWN = frozenset({State.DISCOVERING_STILL, State.INITIALIZING})


class Handshake:
    """The handshake with a server that has just started. No other code initializes a server.

    For a modern client, the bridge sends `server/discover` if it does not know the era, and initializes a legacy
    server. A server that does not know `server/discover` may answer with any error, or not at all: both mean legacy
    (2026-07-28, "stdio", "Backward Compatibility"). A modern server may only be slow to start: so a late answer still
    counts, and so does -32022 in answer to `initialize`. Some legacy servers end at any first request other than
    `initialize`.

    For a legacy client, the bridge passes on that client's `initialize`. A server that refuses it and answers
    `server/discover` is modern only, which the bridge remembers.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        loop: Loop,
        era_cache: EraCache,
        initialize: Message,
        done: Callable[[Outcome], None],
        *,
        before: Callable[[Message], None] | None = None,
    ) -> None:
        """`initialize` is the request to send; `before` gets the messages that the server sends before its answer.

        Without `before`, it is the bridge's own request, and no other message of the server is about it.
        """
        self._dispatcher = dispatcher
        self._loop = loop
        self._era_cache = era_cache
        self._initialize = initialize
        self._done = done
        self._before = before
        self._state = State.NEW
        self._discovery: Message = {}
        self._initialized: Message = {}
        self._outcome: CallOutcome | None = None

    def begin_for_modern(self) -> None:
        """Begin for a modern client."""
        if self._era_cache.modern is None:
            self._enter(State.DISCOVERING)
            self._loop.call_later(_PROBE_SECONDS, lambda: self._take(Input.SLOW))
        else:
            self._enter(State.MODERN if self._era_cache.modern else State.INITIALIZING)

    def begin_again(self) -> None:
        """Initialize a second process, after the first one ended on `server/discover`."""
        self._enter(State.INITIALIZING)

    def begin_for_legacy(self) -> None:
        """Initialize the server for a session, or find out that it cannot be."""
        if self._era_cache.era is ServerEra.MODERN:
            self._enter(State.DISCOVERING_LAST)
        else:
            is_legacy = self._era_cache.era is ServerEra.LEGACY
            self._enter(State.INITIALIZING_ONLY if is_legacy else State.INITIALIZING_FIRST)

    def begin_only(self) -> None:
        """Initialize it, to see whether it answers, and learn nothing about its era."""
        self._enter(State.INITIALIZING_ONLY)

    # What the server answers

    def receive(self, message: Message) -> None:
        """Ignore messages that belong to no call, as there is no session yet."""

    def send(self, message: Message) -> None:
        """Pass on a message before the answer to `initialize`."""
        if self._before is not None:
            self._before(message)

    def finish(self, message: Message, outcome: CallOutcome | None = None) -> None:
        """Take the answer to `initialize`."""
        self._initialized = message
        self._outcome = outcome
        if isinstance(message.get("result"), dict):
            self._take(Input.ACCEPTED)
        else:
            self._take(Input.NAMED_MODERN if _is_modern_refusal(message) else Input.REFUSED)

    def _take_discovery(self, answer: Message) -> None:
        self._discovery = answer
        # A session needs the result of `server/discover`; for requests that stand alone, the error -32022 is enough.
        is_enough = isinstance(answer.get("result"), dict) or self._state is not State.DISCOVERING_LAST
        if is_enough and is_modern_discovery(answer):
            self._take(Input.DISCOVERED)
        else:
            self._take(Input.ENDED if self._dispatcher.ended else Input.NOT_DISCOVERED)

    def _take(self, what: Input) -> None:
        following = TRANSITIONS.get(self._state, {}).get(what)
        if following is not None:
            self._enter(following)

    def _enter(self, state: State) -> None:
        previous, self._state = self._state, state
        if state in _ASKS_TO_DISCOVER:
            self._dispatcher.ask("server/discover", {"_meta": own_meta()}, self._take_discovery)
        elif state in _ASKS_TO_INITIALIZE and previous not in _ASKS_TO_INITIALIZE:
            purpose = Purpose.INTERNAL if self._before is None else Purpose.CALL
            self._dispatcher.request(self, self._initialize, self, purpose)
        elif state not in TRANSITIONS:
            self._finish(previous)

    def _finish(self, previous: State) -> None:
        if self._state is State.GONE:
            self._done(Gone())
        elif self._state is State.FAILED:
            # If both were refused, the error of `initialize` says more.
            refusal = self._initialized or self._discovery
            if "error" not in refusal:
                text = "the MCP server serves no version of MCP that the bridge knows"
                refusal = jsonrpc.error(0, jsonrpc.INTERNAL_ERROR, text)
            ended = CallOutcome.SERVER_EXIT if self._dispatcher.ended else None
            self._done(Failed(message=refusal, outcome=self._outcome or ended))
        elif self._state is State.INITIALIZED:
            if previous in _OWN:
                self._era_cache.learn(modern=False)
                self._dispatcher.tell("notifications/initialized")
            self._done(Initialized(result=self._initialized["result"]))
        else:
            self._era_cache.learn(modern=True, only=previous is State.DISCOVERING_LAST)
            result = self._discovery.get("result")
            self._done(Modern(discovered=result if isinstance(result, dict) else None))


def own_initialize(metadata: RequestMetadata | None, versions: Versions) -> Message:
    """The bridge's own `initialize`, for the client of a modern request, or for the bridge itself."""
    params = initialize_params(metadata, versions.of_own_initialize)
    return {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}


def own_meta() -> Message:
    """The `_meta` of the bridge's own modern requests."""
    return {
        PROTOCOL_VERSION: MODERN_VERSIONS[-1],
        CLIENT_INFO: OWN_INFO,
        CLIENT_CAPABILITIES: {},
    }


def is_modern_discovery(answer: Message) -> bool:
    """Whether an answer to `server/discover` shows that the server speaks a modern version which the bridge knows."""
    result = answer.get("result")
    if not isinstance(result, dict):
        return _is_modern_refusal(answer)
    versions = result.get("supportedVersions")
    return isinstance(versions, list) and not set(MODERN_VERSIONS).isdisjoint(v for v in versions if isinstance(v, str))


def _is_modern_refusal(answer: Message) -> bool:
    """Whether it is an UnsupportedProtocolVersionError with a modern version that the bridge knows."""
    error = answer.get("error")
    if not isinstance(error, dict) or error.get("code") != UNSUPPORTED_VERSION:
        return False
    data = error.get("data")
    versions = data.get("supported") if isinstance(data, dict) else None
    return isinstance(versions, list) and any(version in versions for version in MODERN_VERSIONS)
