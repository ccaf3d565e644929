"""One modern request and its response: one JSON object, or an event stream if messages come before the answer."""

from __future__ import annotations

from collections.abc import Callable

from stdio_bridge.http.exchange import Request, Response
from stdio_bridge.http.identity import Identity
from stdio_bridge.http.json_errors import JSON_HEADERS, reply_error
from stdio_bridge.http.open_responses import SSE_HEADERS, OpenResponses
from stdio_bridge.protocol import jsonrpc
from stdio_bridge.protocol.calls import CallOutcome
from stdio_bridge.protocol.errors import HttpError
from stdio_bridge.protocol.framing import SSE_OPEN, sse_event
from stdio_bridge.protocol.jsonrpc import Message, RequestId
from stdio_bridge.protocol.mcp import HEADER_MISMATCH, MISSING_CAPABILITY, SUBSCRIPTION_ID, UNSUPPORTED_VERSION
from stdio_bridge.protocol.param_headers import parameter_headers
from stdio_bridge.protocol.request_metadata import RequestMetadata
from stdio_bridge.protocol.to_modern import completed

from .call_records import CallRecord
from .policy import Access

_STATUS = {
    jsonrpc.METHOD_NOT_FOUND: "404 Not Found",
    HEADER_MISMATCH: "400 Bad Request",
    MISSING_CAPABILITY: "400 Bad Request",
    UNSUPPORTED_VERSION: "400 Bad Request",
}


class ModernCall:
    """A verified user's request and its response. `on_gone` is called when the client leaves."""

    def __init__(
        self,
        request: Request,
        response: Response,
        *,
        identity: Identity,
        access: Access | None = None,
        message: Message,
        metadata: RequestMetadata,
        record: CallRecord,
        held_by: OpenResponses,
    ) -> None:
        self.identity = identity
        self._access = access
        self.message = message
        self.metadata = metadata
        self.parameter_headers = parameter_headers(request.headers)
        self.on_gone: Callable[[], None] = _nothing
        self._record = record
        self._response = response
        self._held_by = held_by
        held_by.hold(response, identity, self._gone, self._begin)

    def _gone(self) -> None:
        self._record.left(is_connected=not self._response.finished)
        self.on_gone()

    def _begin(self) -> None:
        if not self._response.started:
            self._response.start(SSE_HEADERS, SSE_OPEN)

    @property
    def id(self) -> RequestId:
        """The request's id."""
        request_id: RequestId = self.message["id"]
        return request_id

    @property
    def method(self) -> str:
        """The request's method."""
        method: str = self.message["method"]
        return method

    def wants(self, message: Message) -> bool:
        """Whether a message before the answer belongs on this response (2026-07-28, "Receiving Messages")."""
        if "id" in message:
            return False
        if message["method"] == "notifications/message":
            return self.metadata.wants_log_of(jsonrpc.params_of(message).get("level"))
        return message["method"] == "notifications/progress" or SUBSCRIPTION_ID in jsonrpc.meta_of(message)

    def send(self, message: Message) -> None:
        """Send a message before the answer, if it belongs on this response."""
        if self.wants(message) and (self._access is None or self._access.shows(message)):
            self._begin()
            self._response.write(sse_event(jsonrpc.encode(message)))

    def finish(self, message: Message, outcome: CallOutcome | None = None) -> None:
        """Answer. Does nothing if the client is gone. `outcome` is set if the bridge has made the answer itself."""
        self._held_by.release(self._response)
        result = message.get("result")
        if isinstance(result, dict):
            message = {**message, "result": completed(result, self.method)}
            if self._access is not None:
                message = self._access.answered(self.message, message)
        data = jsonrpc.encode({**message, "id": self.id})
        if self._response.started:
            self._response.write(sse_event(data))
            self._response.finish()
        else:
            status = _STATUS.get(message["error"].get("code"), "200 OK") if "error" in message else "200 OK"
            self._response.reply(status, JSON_HEADERS, data)
        self._record.answered(message, outcome, bytes_out=len(data))

    def succeed(self, result: Message) -> None:
        """Answer with a result."""
        self.finish(jsonrpc.result(self.id, result))

    def end_subscription(self) -> None:
        """End a subscription with a result."""
        self.succeed({"_meta": {SUBSCRIPTION_ID: self.id}})

    def fail(self, code: int, text: str, data: object = None, *, outcome: CallOutcome | None = None) -> None:
        """Answer with an error."""
        self.finish(jsonrpc.error(self.id, code, text, data), outcome)

    def refuse(self, error: HttpError) -> None:
        """Answer with an HTTP error, or with its JSON-RPC error alone once the response is a stream."""
        self._record.refused(error)
        if self._response.started:
            self.finish(error.message)
            return
        self._held_by.release(self._response)
        reply_error(self._response, error, self.id)


def _nothing() -> None: ...
