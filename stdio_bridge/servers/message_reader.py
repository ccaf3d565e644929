"""Reads a server's messages from its lines. A line that is no message fails the call that it should have answered."""

from __future__ import annotations

import logging
from collections.abc import Callable

from stdio_bridge.io.event_loop import Loop
from stdio_bridge.io.metrics import Counter
from stdio_bridge.protocol import jsonrpc, malformed
from stdio_bridge.protocol.jsonrpc import InvalidMessage

from .dispatcher import Dispatcher

log = logging.getLogger(__name__)

# How long an answer may come after a log line about it.
_BEHIND_SECONDS = 5.0


class MessageReader:
    """Reads the lines of one server's stdout.

    `skipped` counts the lines that were not a message, and `log_skipped` gets each of them with its problem.
    `on_message` gets the time of each message.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        *,
        loop: Loop,
        max_line_bytes: int,
        skipped: Counter,
        log_skipped: Callable[[str, bytes], None],
        on_message: Callable[[float], None],
    ) -> None:
        self._dispatcher = dispatcher
        self._loop = loop
        self._max_line_bytes = max_line_bytes
        self._skipped = skipped
        self._log_skipped = log_skipped
        self._on_message = on_message

    def take(self, line: bytes) -> None:
        """Pass on the message of a line, or fail the call that it should have answered."""
        try:
            value = jsonrpc.parse_json(line)
        except InvalidMessage:
            try:
                value = malformed.read(line)
            except InvalidMessage as error:
                self._take_unreadable(line, str(error))
                return
        now = self._loop.clock()
        for message in value if isinstance(value, list) and value else (value,):
            try:
                self._dispatcher.receive(message)
            except InvalidMessage as error:
                self._take_malformed(message, line, str(error), now, shown=not isinstance(value, list))
            except Exception:
                # One such message must not end the conversation of all clients.
                log.exception("a message of the server could not be handled")
            else:
                self._on_message(now)

    def _take_malformed(self, value: object, line: bytes, problem: str, now: float, *, shown: bool) -> None:
        """Take an invalid message for the response that it must stand for, or fail the call that it answers.

        The error quotes the line only if the line has no other messages, which may be for other clients.
        """
        mended = malformed.mend(value)
        if mended is not None:
            self._dispatcher.receive(mended)
            self._on_message(now)
            return
        self._skip(problem, line)
        self._fail(malformed.find_answered_by(value), problem, line if shown else None)

    def _take_unreadable(self, line: bytes, problem: str) -> None:
        """Fail the calls that an unreadable line answers, so that they do not wait for their time-outs."""
        self._skip(problem, line)
        among = malformed.find_answered_among(line)
        first = malformed.find_answered(line, b"")
        for answered in among.at_once | {malformed.find_answered(line, line)}:
            # Only the call at the beginning of the line gets the beginning: the rest may answer other clients.
            self._fail(answered, problem, line if answered == first else None)
        for behind in among.behind:
            self._fail_later(behind)

    def _fail_later(self, answered: int) -> None:
        # It may be a log line about an answer that comes soon: wait for that. The text in front may be about any
        # client, so the error does not quote it.
        problem = "it does not begin its line"
        self._loop.call_later(_BEHIND_SECONDS, lambda: self._fail(answered, problem, None))

    def take_too_long(self, beginning: bytes, end: bytes) -> None:
        """Fail the call that a too long line answers."""
        self._skipped.add()
        problem = f"it has more than {self._max_line_bytes} bytes"
        self._fail(malformed.find_answered(beginning, end, cut=True), problem, None)

    def _skip(self, problem: str, line: bytes) -> None:
        self._skipped.add()
        self._log_skipped(problem, line)

    def _fail(self, answered: int | None, problem: str, line: bytes | None) -> None:
        begins = "" if line is None else f"; it begins: {malformed.beginning_of(line)}"
        if answered is not None:
            self._dispatcher.fail(answered, f"the MCP server's answer cannot be read: {problem}{begins}")
