"""Which era a server speaks, found out once, and the start of the conversation with one that has just been started."""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from stdio_bridge.io.event_loop import Loop
from stdio_bridge.protocol.jsonrpc import Message
from stdio_bridge.protocol.mcp import (
    CLIENT_CAPABILITIES,
    CLIENT_INFO,
    MODERN_VERSIONS,
    PROTOCOL_VERSION,
    UNSUPPORTED_VERSION,
    Versions,
)
from stdio_bridge.protocol.request_metadata import RequestMetadata
from stdio_bridge.protocol.to_legacy import OWN_INFO, initialize_params

from .dispatcher import Dispatcher

log = logging.getLogger(__name__)

_PROBE_SECONDS = 10.0


class ServerEra(enum.Enum):
    """What a server can be spoken to in."""

    LEGACY = "legacy"
    MODERN = "modern"
    DUAL = "dual"


@dataclass(kw_only=True)
class EraCache:
    """What is known of the server's command. It stays true for as long as the bridge runs."""

    era: ServerEra | None = None
    versions: Versions = field(default_factory=Versions)

    @property
    def modern(self) -> bool | None:
        """Whether it serves modern requests; None while that is not known."""
        return None if self.era is None else self.era is not ServerEra.LEGACY

    def learn(self, *, modern: bool) -> None:
        """Note what a probe has shown. A server that serves modern requests is taken to serve legacy ones as well."""
        if self.era is None:
            self.era = ServerEra.DUAL if modern else ServerEra.LEGACY
            log.info("the MCP server speaks %s", "2026-07-28" if modern else "legacy versions only")


@dataclass(frozen=True, kw_only=True)
class Modern:
    """The server serves modern requests. `discovered` is its own account, where it had to be asked for it."""

    discovered: Message | None


@dataclass(frozen=True, kw_only=True)
class Initialized:
    """The server was initialized as a legacy one, with this result."""

    result: Message


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The server can be spoken to in no way: its error response."""

    message: Message


@dataclass(frozen=True, kw_only=True)
class Gone:
    """The server ended over `server/discover`. Another process is to be initialized at once."""


Opened = Modern | Initialized | Failed | Gone


class Handshake:
    """Begins to speak with a new server: asks for its era if that is unknown, initializes it if that is legacy.

    A server that does not know `server/discover` may answer any error, or nothing: both mean legacy (2026-07-28,
    "stdio", "Backward Compatibility"). A modern one may only be slow to start; so an answer that comes after the
    time-out still counts, and so does -32022 in answer to `initialize`. There are also legacy ones that end at any
    first request but `initialize`.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        loop: Loop,
        era_cache: EraCache,
        metadata: RequestMetadata | None,
        done: Callable[[Opened], None],
    ) -> None:
        self._dispatcher = dispatcher
        self._loop = loop
        self._era_cache = era_cache
        self._metadata = metadata
        self._done: Callable[[Opened], None] | None = done
        self._probing = False
        self._initializing = False
        self._refusal: Message | None = None

    def begin(self) -> None:
        """Start; `done` may be called at once."""
        if self._era_cache.modern is None:
            self.discover()
        elif self._era_cache.modern:
            self._finish(Modern(discovered=None))
        else:
            self.initialize()

    def discover(self) -> None:
        """Ask for the server's own account of itself, whatever is known."""
        self._probing = True
        self._dispatcher.ask("server/discover", {"_meta": own_meta()}, self._discovered)
        self._loop.call_later(_PROBE_SECONDS, self.initialize)

    def _discovered(self, answer: Message) -> None:
        self._probing = False
        result = answer.get("result")
        if is_modern_discovery(answer):
            self._era_cache.learn(modern=True)
            self._finish(Modern(discovered=result if isinstance(result, dict) else None))
        elif self._refusal is not None:
            self._finish(Failed(message=self._refusal))
        elif self._dispatcher.ended and not self._initializing:
            self._finish(Gone())
        else:
            self.initialize()

    def initialize(self) -> None:
        """Initialize it, whatever is known."""
        if self._initializing or self._done is None:
            return
        self._initializing = True
        params = initialize_params(self._metadata, self._era_cache.versions.of_own_initialize)
        self._dispatcher.ask("initialize", params, self._initialized)

    def _initialized(self, answer: Message) -> None:
        result = answer.get("result")
        if isinstance(result, dict):
            self._era_cache.learn(modern=False)
            if self._done is not None:
                self._dispatcher.tell("notifications/initialized")
            self._finish(Initialized(result=result))
        elif _is_modern_refusal(answer):
            self._era_cache.learn(modern=True)
            self._finish(Modern(discovered=None))
        elif self._probing:
            self._refusal = answer
        else:
            self._finish(Failed(message=answer))

    def _finish(self, opened: Opened) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(opened)


def own_meta() -> Message:
    """The `_meta` of a modern request of the bridge's own."""
    return {
        PROTOCOL_VERSION: MODERN_VERSIONS[-1],
        CLIENT_INFO: OWN_INFO,
        CLIENT_CAPABILITIES: {},
    }


def is_modern_discovery(answer: Message) -> bool:
    """Whether an answer to `server/discover` shows a server that we can speak to in the modern era."""
    result = answer.get("result")
    if not isinstance(result, dict):
        return _is_modern_refusal(answer)
    versions = result.get("supportedVersions")
    return isinstance(versions, list) and not set(MODERN_VERSIONS).isdisjoint(v for v in versions if isinstance(v, str))


def _is_modern_refusal(answer: Message) -> bool:
    """An UnsupportedProtocolVersionError that names a version we can speak."""
    error = answer.get("error")
    if not isinstance(error, dict) or error.get("code") != UNSUPPORTED_VERSION:
        return False
    data = error.get("data")
    versions = data.get("supported") if isinstance(data, dict) else None
    return isinstance(versions, list) and any(version in versions for version in MODERN_VERSIONS)
