"""What the two sides know of each other: clients and their calls, and the backend that answers them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from stdio_bridge.http.identity import Identity
from stdio_bridge.protocol.errors import HttpError
from stdio_bridge.protocol.jsonrpc import Message, RequestId
from stdio_bridge.protocol.request_metadata import RequestMetadata


class Reply(Protocol):
    """Where the answer to one request goes."""

    def send(self, message: Message) -> None:
        """Say something before the answer."""

    def finish(self, message: Message) -> None:
        """Answer."""


class Client(Protocol):
    """Someone in whose name a backend speaks to the server."""

    def __hash__(self) -> int: ...

    def receive(self, message: Message) -> None:
        """Take a message of the server that belongs to no call."""


class ModernCaller(Protocol):
    """A modern client's call that waits for its answer. `on_gone` is called when its client leaves."""

    identity: Identity
    message: Message
    metadata: RequestMetadata
    parameter_headers: dict[str, str]
    on_gone: Callable[[], None]

    @property
    def id(self) -> RequestId:
        """The request's id."""

    @property
    def method(self) -> str:
        """The method asked for."""

    def wants(self, message: Message) -> bool:
        """Whether something said before the answer belongs on this call's response."""

    def send(self, message: Message) -> None:
        """Say something before the answer, if it belongs here."""

    def finish(self, message: Message) -> None:
        """Answer. Does nothing when the client is gone."""

    def succeed(self, result: Message) -> None:
        """Answer with a result."""

    def end_subscription(self) -> None:
        """Answer a subscription, which ends it well."""

    def fail(self, code: int, text: str, data: object = None) -> None:
        """Answer with an error."""

    def refuse(self, error: HttpError) -> None:
        """Answer with a refusal, or what is left of it once the response is a stream."""


class Backend(Protocol):
    """How modern requests are put to one server."""

    def request(self, modern_call: ModernCaller) -> None:
        """Have a call answered. Raises HttpError."""

    def list_tools(self, page: Message, answered: Callable[[Message], None]) -> None:
        """Ask for the tools on the bridge's own account, and forget what the catalog holds when they change."""

    @property
    def idle(self) -> bool:
        """Whether no client hears it, so far as the connection cannot tell."""

    def close(self) -> None:
        """End every subscription, as "Graceful Closure" has it."""

    def fail(self, reason: str) -> None:
        """The server is gone, and every subscription with it: its client has to begin another."""
