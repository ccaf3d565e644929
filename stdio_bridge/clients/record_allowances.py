"""Limits the records that each user can cause by requests that are refused, or that use no tool, prompt or resource.

Such requests cost a client almost nothing. Without a bound, one user could fill the journal with them, and push the
records of executed calls out of it.
"""

from __future__ import annotations

import collections
import logging

from stdio_bridge.io.event_loop import Loop
from stdio_bridge.io.metrics import Counter
from stdio_bridge.protocol.calls import CallOutcome
from stdio_bridge.protocol.mcp import NAMED_BY, fold_method

from .call_records import CallRecord

log = logging.getLogger(__name__)

BURST = 100
PER_SECOND = 20
_MAX_USERS = 10_000
_SUMMARY_SECONDS = 60.0
_MAX_CHARACTERS = 300
_NOT_EXECUTED = frozenset({CallOutcome.DENIED, CallOutcome.OVER_QUOTA})


class _User:
    """What a user has left, since when, and how many requests had no record since the last summary."""

    __slots__ = ("left", "since", "unrecorded")

    def __init__(self, now: float) -> None:
        self.left = float(BURST)
        self.since = now
        self.unrecorded = 0


class RecordAllowances:
    """The allowances of one bridge's users. Requests beyond one are counted, and logged once a minute for each user."""

    def __init__(self, loop: Loop, unrecorded: Counter) -> None:
        self._loop = loop
        self._unrecorded = unrecorded
        # In the order of their last limited request.
        self._users: collections.OrderedDict[str, _User] = collections.OrderedDict()
        self._will_report = False

    def admit(self, record: CallRecord) -> bool:
        """Whether to write the record of a request that has ended. Records of executed calls are always written."""
        if not is_limited(record):
            return True
        now, name = self._loop.clock(), record.identity.user
        user = self._users.setdefault(name, _User(now))
        self._users.move_to_end(name)
        if len(self._users) > _MAX_USERS:
            _report(*self._users.popitem(last=False))
        user.left = min(user.left + (now - user.since) * PER_SECOND, BURST)
        user.since = now
        if user.left >= 1:
            user.left -= 1
            return True
        user.unrecorded += 1
        self._unrecorded.add()
        if not self._will_report:
            self._will_report = True
            self._loop.call_later(_SUMMARY_SECONDS, self.report)
        return False

    def report(self) -> None:
        """Log how many requests of each user had no record since the last time."""
        self._will_report = False
        for name, user in self._users.items():
            _report(name, user)


def is_limited(record: CallRecord) -> bool:
    """Whether the allowance counts this request: it was refused, or it uses no tool, prompt or resource."""
    return record.outcome in _NOT_EXECUTED or record.was_refused or fold_method(record.method) not in NAMED_BY


def _report(name: str, user: _User) -> None:
    if user.unrecorded:
        text = "%d requests of %s have no record: too many were refused, or used no tool, prompt or resource"
        log.warning(text, user.unrecorded, ascii(name[:_MAX_CHARACTERS]))
        user.unrecorded = 0
