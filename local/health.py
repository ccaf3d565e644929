"""Checks whether a part serves: each returns None if it does, else what is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import redis
import requests

TIMEOUT_SECONDS = 2


def ask_redis(socket_path: Path) -> str | None:
    """Check that Redis has loaded its data and answers."""
    client = redis.Redis(unix_socket_path=str(socket_path), socket_timeout=TIMEOUT_SECONDS)
    try:
        client.ping()
    except redis.RedisError as error:
        return str(error)
    finally:
        client.close()
    return None


def ask_http(url: str, *, expected: int = 200) -> str | None:
    """Check that a URL answers with this status."""
    try:
        status = _get(url).status_code
    except requests.RequestException as error:
        return f"{url}: {type(error).__name__}"
    return None if status == expected else f"{url}: status {status}"


def ask_resource(resource: str, issuer: str) -> str | None:
    """Check, as a client without a token would, that a resource leads to its authorization server.

    Every step goes through the router: the challenge (RFC 6750 §3), the resource's metadata that it names (RFC 9728
    §5.1), and the authorization server's (RFC 8414 §3).
    """
    try:
        challenge = _get(resource)
        found = re.search(r'resource_metadata="([^"]+)"', challenge.headers.get("WWW-Authenticate", ""))
        if challenge.status_code != 401 or found is None:
            return f"{resource}: status {challenge.status_code} instead of a challenge"
        metadata = _get(found[1]).json()
        if metadata["resource"] != resource or metadata["authorization_servers"] != [issuer]:
            return f"{found[1]}: not the metadata of {resource}"
        server = _get(f"{issuer}/.well-known/oauth-authorization-server").json()
        if server["issuer"] != issuer:
            return f"{issuer}: its metadata is of {server['issuer']}"
    except (requests.RequestException, LookupError, TypeError) as error:
        return f"{resource}: {type(error).__name__}"
    return None


def _get(url: str) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False  # there is no proxy to this machine
        return session.get(url, timeout=TIMEOUT_SECONDS, allow_redirects=False)
