"""The form of the service's log: one line on standard error for each message, whatever its text is."""

from __future__ import annotations

import logging
import logging.handlers
import re
import sys
import time
from collections import OrderedDict
from typing import Any, Final

from gunicorn.glogging import Logger as GunicornLogger

from . import audit

MESSAGES_AT_ONCE: Final = 10
SECONDS_PER_MESSAGE: Final = 10.0
"""For warnings and errors of one kind: this number at once, then one in this number of seconds."""
MAX_KINDS: Final = 1000

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


class LineFormatter(logging.Formatter):
    """Format audit events unchanged, and other messages with level and origin before them."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line. The further lines of a traceback are indented, so that none looks like an event."""
        if isinstance(record.msg, audit.Entry):
            return str(record.msg)
        left_out = getattr(record, "left_out", 0)
        more = f" ({left_out} more like this were left out)" if left_out else ""
        first = escape(f"{record.levelname} {record.name}: {record.getMessage()}{more}")
        if not record.exc_info:
            return first
        trace = self.formatException(record.exc_info).split("\n")
        return "\n".join([first, *(f"  {escape(line)}" for line in trace)])


class RepetitionBound(logging.Filter):
    """Limit messages of one kind, tracebacks included, and count those that are left out.

    A kind is one statement of the code, so that one failure cannot fill the log, however many requests it affects. The
    audit log has its own limit (`audit.RefusalBound`).
    """

    def __init__(self) -> None:
        super().__init__()
        self._kinds: OrderedDict[tuple[str, str], _Allowance] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the message is written; the handler's lock is held."""
        if record.levelno < logging.WARNING or isinstance(record.msg, audit.Entry):
            return True
        kind = record.name, str(record.msg)
        allowance = self._kinds.setdefault(kind, _Allowance())
        self._kinds.move_to_end(kind)
        if len(self._kinds) > MAX_KINDS:
            self._kinds.popitem(last=False)
        left_out = allowance.take()
        record.left_out = left_out
        return left_out is not None


class _Allowance:
    def __init__(self) -> None:
        self._left = float(MESSAGES_AT_ONCE)
        self._since = time.monotonic()
        self._left_out = 0

    def take(self) -> int | None:
        """Return how many were left out before this one, None if this one is left out too."""
        now = time.monotonic()
        self._left = min(float(MESSAGES_AT_ONCE), self._left + (now - self._since) / SECONDS_PER_MESSAGE)
        self._since = now
        if self._left < 1:
            self._left_out += 1
            return None
        self._left -= 1
        left_out, self._left_out = self._left_out, 0
        return left_out


class GunicornLog(GunicornLogger):  # type: ignore[misc]  # Gunicorn ships no types
    """Gunicorn's messages in the same form, without its access log, as the router has one."""

    def setup(self, cfg: Any) -> None:
        """Pass all messages on to the root logger."""
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True


class AuditHandler(logging.handlers.SysLogHandler):
    """Send audit events to a journal, or to standard error if the journal does not take them."""

    append_nul = False  # it would be part of the entry

    def __init__(self, audit_socket: str, *, program: str) -> None:
        """`program` is the identifier of the entries."""
        super().__init__(audit_socket, facility=self.LOG_AUTHPRIV)
        self.ident = f"{program}: "
        self.setFormatter(LineFormatter())
        self._otherwise = logging.StreamHandler(sys.stderr)
        self._otherwise.setFormatter(LineFormatter())

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        """Write an event to standard error that the journal did not take."""
        self._otherwise.emit(record)


def configure(level: str, *, audit_socket: str | None = None) -> None:
    """Set up logging for this process and its forks. `level` is a name of a level of `logging`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    handler.addFilter(keeps_secrets)
    handler.addFilter(RepetitionBound())
    logging.basicConfig(level=level, handlers=[handler])
    if audit_socket is not None:
        audit.log.addHandler(AuditHandler(audit_socket, program="mcp-auth-service"))
        audit.log.setLevel(logging.INFO)
        audit.log.propagate = False
    audit.bound_refusals()


def keeps_secrets(record: logging.LogRecord) -> bool:
    """Whether a message may be written. Authlib's DEBUG lines have whole tokens, Gunicorn's the URLs of requests."""
    return record.levelno > logging.DEBUG or record.name.partition(".")[0] not in {"authlib", "gunicorn"}


def escape(text: str) -> str:
    """Return a text with escapes for characters that move a cursor, end a line, or change its direction."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
