"""Calling an identity provider: bounded, never redirected, and every failure the one error that denies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import requests
from urllib3.exceptions import HTTPError

from auth_service.errors import ServiceUnavailable

_TIMEOUT: Final = (5, 10)  # seconds to connect, and between two reads
_MAX_BYTES: Final = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a provider answered."""

    provider: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    def document(self) -> dict[str, Any]:
        """Return the body's JSON object. Raises ServiceUnavailable if it is none."""
        try:
            document = json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise ServiceUnavailable(self.provider) from error
        if not isinstance(document, dict):
            raise ServiceUnavailable(self.provider)
        return document


class _BearerToken(requests.auth.AuthBase):
    """Sets the header itself: requests would otherwise prefer what a `.netrc` says."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class _NoAuth(requests.auth.AuthBase):
    """Sends none, whatever a `.netrc` says."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


def call(
    session: requests.Session,
    method: str,
    url: str,
    *,
    provider: str,
    token: str | None = None,
    basic: tuple[str, str] | None = None,
    data: Mapping[str, str] | None = None,
) -> Answer:
    """Make one request; `provider` is its name for people. Raises ServiceUnavailable if there is no whole answer."""
    auth: requests.auth.AuthBase = _NoAuth()
    if token is not None:
        auth = _BearerToken(token)
    elif basic is not None:
        auth = requests.auth.HTTPBasicAuth(*basic)
    try:
        with session.request(
            method,
            url,
            data=data,
            auth=auth,
            headers={"Accept": "application/json", "User-Agent": "mcp-oauth-gateway"},
            timeout=_TIMEOUT,
            allow_redirects=False,
            stream=True,
        ) as response:
            body = response.raw.read(_MAX_BYTES + 1, decode_content=True)
            if len(body) > _MAX_BYTES:
                raise ServiceUnavailable(provider)
            return Answer(provider=provider, status=response.status_code, headers=response.headers, body=body)
    except (requests.RequestException, OSError, HTTPError) as error:
        raise ServiceUnavailable(provider) from error
