"""What the service's log looks like: one line per message on standard error, which no message can break out of."""

from __future__ import annotations

import logging
import re
import sys
from typing import Any

from gunicorn.glogging import Logger as GunicornLogger

from auth_service import audit

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


class LineFormatter(logging.Formatter):
    """Audit events as they are, everything else after its level and origin."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line; a trace's further lines are indented, so that none can pass for an event."""
        if isinstance(record.msg, audit.Entry):
            return str(record.msg)
        first = escape(f"{record.levelname} {record.name}: {record.getMessage()}")
        if not record.exc_info:
            return first
        trace = self.formatException(record.exc_info).split("\n")
        return "\n".join([first, *(f"  {escape(line)}" for line in trace)])


class GunicornLog(GunicornLogger):  # type: ignore[misc]  # Gunicorn ships no types
    """Gunicorn's messages in the same form; no access log, which is the router's."""

    def setup(self, cfg: Any) -> None:
        """Pass everything on to the root logger."""
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True


def configure(level: str) -> None:
    """Set up logging for this process and those that it forks. `level` is a name that `logging` knows."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    handler.addFilter(keeps_secrets)
    logging.basicConfig(level=level, handlers=[handler])
    audit.bound_refusals()


def keeps_secrets(record: logging.LogRecord) -> bool:
    """Whether a message may be written: Authlib's DEBUG lines hold whole tokens, Gunicorn's what clients ask for."""
    return record.levelno > logging.DEBUG or record.name.partition(".")[0] not in {"authlib", "gunicorn"}


def escape(text: str) -> str:
    """Return a text without the characters that move a cursor, end a line, or change its direction."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
