"""A record of each request of a client, from its arrival to its end, for the observers of calls.

Observers are called when a call begins and when it ends. A bridge without observers makes no records.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from stdio_bridge.http.exchange import Request
from stdio_bridge.http.identity import ANYONE, Identity
from stdio_bridge.protocol import jsonrpc
from stdio_bridge.protocol.calls import CallOutcome
from stdio_bridge.protocol.errors import HttpError
from stdio_bridge.protocol.jsonrpc import Message
from stdio_bridge.protocol.mcp import LISTEN, USED_PARAMETERS, fold_method

from .request_body import Body

_OUTCOMES = {"403": CallOutcome.DENIED, "429": CallOutcome.OVER_QUOTA}
# The largest whole number that every reader of JSON reads exactly; a server may send any code.
_MAX_CODE = 2**53 - 1


class CallRecord:
    """The record of one request. Method, name and trace context are the client's own text, of any length.

    `began_at` is in seconds since 1970; `seconds`, `outcome`, `error_code` and `bytes_out` are set at the end. Bytes
    are those of the request and of its answer as JSON. `traceparent` is that of the header, or else that of `_meta`.
    """

    __slots__ = (
        "_clock",
        "_ends",
        "_started",
        "began_at",
        "bytes_in",
        "bytes_out",
        "error_code",
        "identity",
        "method",
        "name",
        "outcome",
        "seconds",
        "traceparent",
        "was_refused",
    )

    def __init__(
        self,
        message: Message,
        identity: Identity,
        *,
        bytes_in: int,
        traceparent: object,
        began_at: float,
        clock: Callable[[], float],
    ) -> None:
        """`traceparent` is the value of the header."""
        params = message.get("params")
        self.identity = identity
        self.method: str = message["method"]
        name = None
        if isinstance(params, dict):
            name = params.get(USED_PARAMETERS.get(fold_method(self.method)))
            if traceparent is None and isinstance(meta := params.get("_meta"), dict):
                traceparent = meta.get("traceparent")
        self.name = name if isinstance(name, str) else None
        self.traceparent = traceparent if isinstance(traceparent, str) else None
        self.bytes_in = bytes_in
        self.bytes_out = 0
        self.began_at = began_at
        self.seconds = 0.0
        self.outcome: CallOutcome | None = None
        self.error_code: int | None = None
        self.was_refused = False
        self._ends: tuple[CallEnd, ...] = ()
        self._clock = clock
        self._started = clock()

    def observe(self, end: CallEnd) -> None:
        """Call this function at the end."""
        self._ends += (end,)

    def answered(self, answer: Message, outcome: CallOutcome | None = None, *, bytes_out: int) -> None:
        """End with an answer. It determines the outcome, unless the bridge made it and `outcome` is set."""
        if "error" in answer:
            self.end(outcome or CallOutcome.ERROR, error_code=answer["error"].get("code"), bytes_out=bytes_out)
        elif outcome is None and self.method == "tools/call" and answer["result"].get("isError") is True:
            self.end(CallOutcome.TOOL_ERROR, bytes_out=bytes_out)
        else:
            self.end(outcome or CallOutcome.OK, bytes_out=bytes_out)

    def refused(self, error: HttpError) -> None:
        """End with an HTTP error. The server has not got the request."""
        if self.outcome is None:
            self.was_refused = True
        body = error.message["error"]
        self.end(_OUTCOMES.get(error.status[:3], CallOutcome.ERROR), error_code=body["code"])

    def left(self, *, is_connected: bool) -> None:
        """End without an answer: the client has left, or, if it `is_connected`, the bridge has ended its response.

        A client that closes the response of a subscription ends it as the protocol intends, so the outcome is OK.
        """
        if is_connected:
            self.end(CallOutcome.CANCELLED)
        else:
            self.end(CallOutcome.OK if self.method == LISTEN else CallOutcome.CLIENT_GONE)

    def end(self, outcome: CallOutcome, *, error_code: object = None, bytes_out: int = 0) -> None:
        """End. Only the first end counts."""
        if self.outcome is not None:
            return
        self.seconds = self._clock() - self._started
        self.outcome = outcome
        if type(error_code) is int and abs(error_code) <= _MAX_CODE:
            self.error_code = error_code
        self.bytes_out = bytes_out
        for each in self._ends:
            each(self)
        self._ends = ()


CallEnd = Callable[[CallRecord], None]


class CallObserver(Protocol):
    """Observes the beginning and the end of calls."""

    def begin(self, record: CallRecord, message: Message) -> CallEnd | None:
        """Note a request, and return the function to call at its end. Observers must not keep the message."""


class _Unobserved(CallRecord):
    """The one record for all requests of a bridge without observers."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__({"method": ""}, ANYONE, bytes_in=0, traceparent=None, began_at=0.0, clock=lambda: 0.0)

    def answered(self, answer: Message, outcome: CallOutcome | None = None, *, bytes_out: int) -> None:
        """Do nothing."""

    def end(self, outcome: CallOutcome, *, error_code: object = None, bytes_out: int = 0) -> None:
        """Do nothing."""


class CallRecords:
    """Begins the records of one bridge. When the bridge stops, it ends those that have not ended."""

    def __init__(
        self, observers: Sequence[CallObserver], *, clock: Callable[[], float], time: Callable[[], float]
    ) -> None:
        """`clock` measures durations, `time` is in seconds since 1970."""
        self._observers = observers
        self._clock = clock
        self._time = time
        self._open: set[CallRecord] = set()
        self._unobserved = _Unobserved()

    def begin(self, request: Request, body: Body, identity: Identity) -> list[CallRecord]:
        """Return a record for each request of a body, in their order."""
        if not self._observers:
            return [self._unobserved] * len(body.requests)
        header = request.headers.get("traceparent")
        records: list[CallRecord] = []
        try:
            self._begin(body, identity, header, records)
        except Exception:
            # Observers that have seen the beginning must see the end.
            for record in records:
                record.end(CallOutcome.ERROR, error_code=jsonrpc.INTERNAL_ERROR)
            raise
        return records

    def _begin(self, body: Body, identity: Identity, header: str | None, records: list[CallRecord]) -> None:
        for message in body.requests:
            size = len(jsonrpc.encode(message)) if body.batch else body.size
            record = CallRecord(
                message,
                identity,
                bytes_in=size,
                traceparent=header,
                began_at=self._time(),
                clock=self._clock,
            )
            records.append(record)
            self._open.add(record)
            record.observe(self._open.remove)
            for observer in self._observers:
                end = observer.begin(record, message)
                if end is not None:
                    record.observe(end)

    def close(self) -> None:
        """End the records of the calls that are still unanswered: their servers end with the bridge."""
        for record in list(self._open):
            record.end(CallOutcome.SERVER_EXIT)
