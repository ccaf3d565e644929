"""HTTP as clients speak it."""

from __future__ import annotations

import os
from typing import Any, Final

import requests

from .findings import TIMEOUT_SECONDS, CheckFailed


def connect() -> requests.Session:
    """Return a session that uses no proxy of this host: clients use none, and it would see a token."""
    http = requests.Session()
    http.trust_env = False
    http.verify = os.environ.get("REQUESTS_CA_BUNDLE") or True
    return http


_OF_THE_GATEWAY: Final = (
    "The router has no route for it, or another program listens there. See that the host name leads to this gateway, "
    "and that Traefik polls /routes."
)


def get_json(http: requests.Session, url: str, *, advice: str = _OF_THE_GATEWAY) -> dict[str, Any]:
    """Return the object at a URL. Raises CheckFailed."""
    answer = http.get(url, timeout=TIMEOUT_SECONDS, allow_redirects=False)
    if answer.status_code != 200:
        raise CheckFailed(f"{url} answers {answer.status_code}", advice)
    try:
        document = answer.json()
    except ValueError as error:  # also of numbers with more digits than Python reads
        raise CheckFailed(f"{url} is not JSON", advice) from error
    if not isinstance(document, dict):
        raise CheckFailed(f"{url} is no JSON object", advice)
    return document
