"""The interfaces between `clients` and `servers`: clients and their calls, and the backend that answers them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from stdio_bridge.http.identity import Identity
from stdio_bridge.protocol.calls import CallOutcome
from stdio_bridge.protocol.errors import HttpError
from stdio_bridge.protocol.jsonrpc import Message, RequestId
from stdio_bridge.protocol.request_metadata import RequestMetadata

from .eviction import Occupant


class Reply(Protocol):
    """Where the answer to one request goes."""

    def send(self, message: Message) -> None:
        """Send a message before the answer."""

    def finish(self, message: Message, outcome: CallOutcome | None = None) -> None:
        """Answer. `outcome` is set if the server has not answered, and the bridge has made the answer itself."""


class InitializeReply(Reply, Protocol):
    """Where the answer to a session's `initialize` goes."""

    def refuse(self, request_id: RequestId, error: HttpError) -> None:
        """Answer with an HTTP error, or with its JSON-RPC error alone once the response is a stream."""


class Client(Protocol):
    """A client of a backend."""

    def __hash__(self) -> int: ...

    def receive(self, message: Message) -> None:
        """Deliver a message of the server that belongs to no call."""


class SessionClient(Client, Occupant, Protocol):
    """A session of a legacy client."""

    def lease_ended(self) -> None:
        """End the session, as its server is gone."""


class ModernCaller(Reply, Protocol):
    """A modern client's call, which stands alone. `on_gone` is called when its client leaves."""

    identity: Identity
    message: Message
    metadata: RequestMetadata
    parameter_headers: dict[str, str]
    on_gone: Callable[[], None]

    def __hash__(self) -> int: ...

    @property
    def id(self) -> RequestId:
        """The request's id."""

    @property
    def method(self) -> str:
        """The method asked for."""

    def wants(self, message: Message) -> bool:
        """Whether a message before the answer belongs on this call's response."""

    def succeed(self, result: Message) -> None:
        """Answer with a result."""

    def end_subscription(self) -> None:
        """End a subscription with a result."""

    def fail(self, code: int, text: str, data: object = None, *, outcome: CallOutcome | None = None) -> None:
        """Answer with an error."""

    def refuse(self, error: HttpError) -> None:
        """Answer with an HTTP error, or with its JSON-RPC error alone once the response is a stream."""


ClientT_contra = TypeVar("ClientT_contra", contravariant=True)


class Backend(Protocol[ClientT_contra]):
    """Serves clients of one era from one server, whose era may be another.

    There are three: `passthrough`, where both have the same era, `legacy_for_modern` and `modern_for_legacy`.
    """

    def request(self, client: ClientT_contra, message: Message, reply: Reply) -> None:
        """Answer a request. Raises HttpError."""

    def leave(self, client: ClientT_contra) -> None:
        """Remove a client, and cancel its requests."""


class SessionBackend(Backend[SessionClient], Protocol):
    """A backend for sessions. Their clients also send notifications and responses to the server."""

    def join(self, client: SessionClient, *, user: str, initialize: Message) -> None:
        """Add a client, so that it gets messages that name no call. `initialize` is the client's request."""

    def notify(self, client: SessionClient, message: Message) -> None:
        """Pass a client's notification on."""

    def respond(self, client: SessionClient, message: Message) -> None:
        """Pass a client's answer on."""

    def unheard(self, client: SessionClient, request: Message, reason: str) -> None:
        """Handle that a request of the server did not reach the client: refuse it, or fail the call that needs it."""

    def lose(self, client: SessionClient, reply: Reply) -> None:
        """Note that this reply can no longer reach the client."""

    def has_calls_of(self, client: SessionClient) -> bool:
        """Whether a call of this client is in flight."""

    def waits_for(self, client: SessionClient) -> bool:
        """Whether a request of the server to this client is unanswered."""

    def fail(self, reason: str) -> None:
        """The server is gone. Fail the calls that wait for clients; the connection fails those in flight."""


class CallBackend(Backend[ModernCaller], Protocol):
    """A backend for calls that stand alone, including subscriptions."""

    def list_tools(self, page: Message, answered: Callable[[Message], None]) -> None:
        """List the tools for the bridge itself, and clear the catalog when they change."""

    @property
    def idle(self) -> bool:
        """Whether no client has a subscription open."""

    def close(self) -> None:
        """End every subscription, as "Graceful Closure" has it."""

    def fail(self, reason: str) -> None:
        """The server is gone. End every subscription, so that its client begins another."""
