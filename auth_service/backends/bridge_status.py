"""The status of a server that its bridge reports, so that a check need not start the server."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urljoin

import requests
from urllib3.exceptions import HTTPError

from auth_service.settings import Resource

PATH = "/statusz"
UNREACHABLE = (requests.RequestException, HTTPError, OSError)
"""What is raised if a server does not answer, or stops within its answer."""
PATIENCE_SECONDS = 120.0
"""How many seconds a server may take to answer a client."""
_MAX_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class BridgeStatus:
    """How many seconds ago a server last answered, was needed, and ended before it answered; infinite for never."""

    answered: float
    needed: float
    failed: float
    asleep: bool = False
    """Whether the bridge has exited because nobody uses it; then nothing else is known."""

    def says_enough(self, max_age: float) -> bool:
        """Whether the status is known, from events of the last `max_age` seconds."""
        if self.asleep:
            return True
        newest = min(self.answered, self.failed, self.needed)
        return newest < max_age and (self.answered < max_age or self.problem is not None)

    @property
    def problem(self) -> str | None:
        """What was wrong with the server at its last use."""
        if self.failed < self.answered:
            return f"ended before it answered, {self.failed:.0f} s ago"
        if PATIENCE_SECONDS < self.needed < self.answered:
            return f"has not answered the client that needed it {self.needed:.0f} s ago"
        return None


def find_status(session: requests.Session, resource: Resource, endpoint: str, *, timeout: float) -> BridgeStatus | None:
    """Ask for the status of the bridge at this endpoint; return None if there is none."""
    try:
        return ask(session, resource, endpoint, timeout=timeout)
    except UNREACHABLE:
        return None


def ask(session: requests.Session, resource: Resource, endpoint: str, *, timeout: float) -> BridgeStatus | None:
    """Return the status of the bridge at this endpoint, None if another server answers there.

    Raises one of UNREACHABLE if nothing answers.
    """
    status_url = resource.status_urls.get(endpoint)
    with session.get(
        status_url or urljoin(endpoint, PATH),
        headers={"Accept-Encoding": "identity"},
        timeout=timeout,
        allow_redirects=False,
        stream=True,
    ) as answer:
        body = answer.raw.read(_MAX_BYTES, decode_content=False) if answer.status_code == HTTPStatus.OK else b""
    try:
        match json.loads(body):
            case {"mcp-stdio-bridge": {"answered": answered, "needed": needed, "failed": failed, **more}}:
                return BridgeStatus(
                    answered=_age(answered),
                    needed=_age(needed),
                    failed=_age(failed),
                    asleep=more.get("asleep") is True,
                )
    except (ValueError, TypeError, OverflowError, RecursionError):
        pass
    if status_url is not None:
        raise requests.ConnectionError("no bridge answers, for which the status service was asked")
    return None


def _age(value: object) -> float:
    if value is None:
        return math.inf
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return float(value)
    raise TypeError("not a number of seconds")
