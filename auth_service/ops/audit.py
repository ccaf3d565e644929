"""Audit events: one line in the log for each decision, by a fixed name (docs/audit.md lists them).

A line is one JSON object in ASCII, so that no value can end the line, hide in it, or reorder it on a terminal. The
parameters of `record` are its only members. None of them is ever a token, code, secret or cookie.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, Protocol

MAX_VALUE_LENGTH: Final = 300
REFUSALS_PER_SECOND: Final = 5
"""How many refusals of one kind are written, as attackers can cause them. All other events are always written."""
REFUSALS_AT_ONCE: Final = 20

log = logging.getLogger(__name__)


class Event(StrEnum):
    """All decisions of the service."""

    CLIENT_REGISTERED = "client.registered"
    CLIENT_UPDATED = "client.updated"
    CLIENT_DELETED = "client.deleted"
    REGISTRATION_REFUSED = "registration.refused"

    AUTHORIZATION_REFUSED = "authorization.refused"
    CONSENT_GIVEN = "consent.given"
    CONSENT_DECLINED = "consent.declined"
    CONSENT_REMEMBERED = "consent.remembered"
    CONSENT_REFUSED = "consent.refused"
    CONSENT_WITHDRAWN = "consent.withdrawn"
    LOGIN_ACCEPTED = "login.accepted"
    LOGIN_REFUSED = "login.refused"
    SESSION_STARTED = "session.started"
    SESSION_ENDED = "session.ended"

    SCOPE_WITHHELD = "scope.withheld"
    SCOPE_REMOVED = "scope.removed"

    CODE_ISSUED = "code.issued"
    CODE_REDEEMED = "code.redeemed"
    CODE_REPLAYED = "code.replayed"
    TOKEN_ISSUED = "token.issued"  # noqa: S105 - a name
    TOKEN_REFRESHED = "token.refreshed"  # noqa: S105 - a name
    TOKEN_REUSED = "token.reused"  # noqa: S105 - a name
    TOKEN_REFUSED = "token.refused"  # noqa: S105 - a name
    TOKEN_INTROSPECTED = "token.introspected"  # noqa: S105 - a name
    GRANT_REVOKED = "grant.revoked"
    REVOCATION_REFUSED = "revocation.refused"
    INTROSPECTION_REFUSED = "introspection.refused"
    VERIFY_REFUSED = "verify.refused"

    CREDENTIAL_SET = "credential.set"
    CREDENTIAL_REPLACED = "credential.replaced"
    CREDENTIAL_REMOVED = "credential.removed"
    CONNECTION_REFUSED = "connection.refused"
    CREDENTIAL_EXPIRED = "credential.expired"
    CREDENTIAL_DELIVERED = "credential.delivered"
    CREDENTIAL_REFUSED = "credential.refused"

    NAME_UNPINNED = "name.unpinned"

    KEY_ADDED = "key.added"
    KEY_RETIRED = "key.retired"


_ALARMING: Final = frozenset({Event.CODE_REPLAYED, Event.TOKEN_REUSED})
"""Honest clients do not cause these: an attacker may have a stolen token or code."""

_REFUSALS: Final = frozenset(event for event in Event if event.endswith(".refused"))


class AuditedGrant(Protocol):
    """The members of a grant that an event has."""

    @property
    def sid(self) -> str:
        """The grant's id."""

    @property
    def sub(self) -> str:
        """The user."""

    @property
    def name(self) -> str:
        """The user's login name."""

    @property
    def client_id(self) -> str:
        """The client."""

    @property
    def resource(self) -> str:
        """The resource's URL."""


class Entry:
    """One event; its text is the line."""

    def __init__(self, event: Event, values: dict[str, str | None], suppressed: int) -> None:
        """`suppressed` is the number of like events that were left out since the last line."""
        self.event = event
        self.suppressed = suppressed
        self.values = {name: value[:MAX_VALUE_LENGTH] for name, value in values.items() if value is not None}

    def __str__(self) -> str:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        counted = {"suppressed": self.suppressed} if self.suppressed else {}
        return json.dumps({"event": self.event, "time": now, **self.values, **counted})


class RefusalBound:
    """Limit the refusals of each kind (event and resource) in the log, and count those that are left out."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._allowance: dict[tuple[Event, str | None], tuple[float, float]] = {}
        self._suppressed: Counter[tuple[Event, str | None]] = Counter()

    def admit(self, event: Event, resource: str | None) -> int | None:
        """Return how many were left out since the last one, None if this one is left out too."""
        # Only `verify.refused` has a kind for each resource, all of which exist: a sender cannot invent kinds.
        kind = event, resource if event is Event.VERIFY_REFUSED else None
        with self._lock:
            now = time.time()
            left, since = self._allowance.get(kind, (float(REFUSALS_AT_ONCE), now))
            left = min(float(REFUSALS_AT_ONCE), left + max(now - since, 0) * REFUSALS_PER_SECOND)
            is_written = left >= 1
            self._allowance[kind] = (left - 1 if is_written else left), now
            if is_written:
                return self._suppressed.pop(kind, 0)
            self._suppressed[kind] += 1
            return None


_bound: RefusalBound | None = None
_counts: Counter[Event] = Counter()


def counts() -> dict[Event, int]:
    """Return how many events of each name this process has recorded, including those left out."""
    return dict(_counts)


def bound_refusals() -> None:
    """Limit the refusals in the log of this process from now on."""
    global _bound  # noqa: PLW0603 - the log is the process's own, and so is what bounds it
    _bound = RefusalBound()


def record(
    event: Event,
    *,
    of: AuditedGrant | None = None,
    grant: str | None = None,
    user: str | None = None,
    name: str | None = None,
    client: str | None = None,
    resource: str | None = None,
    scope: str | None = None,
    redirect: str | None = None,
    address: str | None = None,
    key: str | None = None,
    credential: str | None = None,
    by: str | None = None,
    reason: str | None = None,
) -> None:
    """Write one decision to the audit log.

    `of` fills in `grant`, `user`, `name`, `client` and `resource`. `by` is who decided, if not the user:
    `client`, `server`, `operator`, `gateway`. `reason` says why something was refused or ended. A client that has not
    authenticated has the name that it gave itself.
    """
    values = {
        "user": of.sub if of else user,
        "name": of.name if of else name,
        "client": of.client_id if of else client,
        "resource": of.resource if of else resource,
        "grant": of.sid if of else grant,
        "scope": scope,
        "redirect": redirect,
        "address": address,
        "key": key,
        "credential": credential,
        "by": by,
        "reason": reason,
    }
    _counts[event] += 1
    suppressed = _bound.admit(event, values["resource"]) if _bound is not None and event in _REFUSALS else 0
    if suppressed is not None:
        log.log(logging.WARNING if event in _ALARMING else logging.INFO, Entry(event, values, suppressed))
