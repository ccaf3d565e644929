"""What a check says: what it found, how bad that is, and what to do."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import requests

from auth_service.protocol.errors import ServiceUnavailable

TIMEOUT_SECONDS: Final = 10
# The parts have a journal of their own; systemd's messages about them are in the system's journal.
LOG_COMMAND: Final = "journalctl --namespace='*'"


class Status(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check."""

    check: str
    status: Status
    text: str
    advice: str | None = None
    """What to do; None if there is nothing to do."""


class CheckFailed(Exception):
    """A check has found a problem; `advice` says what to do."""

    def __init__(self, text: str, advice: str, *, status: Status = Status.PROBLEM) -> None:
        super().__init__(text)
        self.advice = advice
        self.status = status


def run(check: str, examine: Callable[[], str]) -> Finding:
    """Run one check. `examine` returns what is well, or raises."""
    try:
        return Finding(check=check, status=Status.OK, text=examine())
    except CheckFailed as failure:
        return Finding(check=check, status=failure.status, text=str(failure), advice=failure.advice)
    except ServiceUnavailable as error:
        return Finding(
            check=check,
            status=Status.PROBLEM,
            text=str(error),
            advice="See the result of the check of redis above.",
        )
    except (requests.RequestException, OSError) as error:
        return Finding(check=check, status=Status.PROBLEM, text=explain(error), advice=_advise(error))


def explain(error: BaseException | None) -> str:
    """Say why a request got no whole answer. Without an error its time was over."""
    if isinstance(error, requests.exceptions.SSLError | ssl.SSLError):
        return f"the certificate is not trusted: {error}"
    if error is None or isinstance(error, requests.Timeout | TimeoutError):
        return "no answer in time"
    return f"cannot be reached: {error}"


def _advise(error: Exception) -> str:
    if isinstance(error, requests.exceptions.SSLError | ssl.SSLError):
        return "Clients cannot connect either. See Traefik's log for ACME errors, and check the system's clock."
    return "See that the name resolves, the firewall lets it through, and Traefik runs: systemctl status traefik."
