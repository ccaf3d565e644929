"""Whether a part truly serves: each question returns None for yes, else what is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import redis
import requests

TIMEOUT_SECONDS = 2


def ask_redis(socket_path: Path) -> str | None:
    """Ask whether Redis has loaded its data and answers."""
    client = redis.Redis(unix_socket_path=str(socket_path), socket_timeout=TIMEOUT_SECONDS)
    try:
        client.ping()
    except redis.RedisError as error:
        return str(error)
    finally:
        client.close()
    return None


def ask_http(url: str, *, expected: int = 200) -> str | None:
    """Ask whether a URL answers with that status."""
    try:
        status = _get(url).status_code
    except requests.RequestException as error:
        return f"{url}: {type(error).__name__}"
    return None if status == expected else f"{url}: status {status}"


def ask_resource(resource: str, issuer: str) -> str | None:
    """Ask, as a client without a token would, whether a resource leads to its authorization server.

    Every step goes through the router: the challenge (RFC 6750 §3), the resource's metadata that it names (RFC 9728
    §5.1), and the authorization server's (RFC 8414 §3).
    """
    try:
        challenge = _get(resource)
        found = re.search(r'resource_metadata="([^"]+)"', challenge.headers.get("WWW-Authenticate", ""))
        if challenge.status_code != 401 or found is None:
            return f"{resource}: status {challenge.status_code} where a challenge was expected"
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
        session.trust_env = False  # no proxy is between us and this machine
        return session.get(url, timeout=TIMEOUT_SECONDS, allow_redirects=False)
