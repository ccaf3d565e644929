"""What the two sides know of each other where a modern client calls: its call, and the backend that answers it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from stdio_bridge.http.identity import Identity
from stdio_bridge.protocol.errors import HttpError
from stdio_bridge.protocol.jsonrpc import Message, RequestId
from stdio_bridge.protocol.request_metadata import RequestMetadata


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
