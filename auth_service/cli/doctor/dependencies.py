"""What the auth service needs: Redis, the identity provider, and trusted issuers."""

from __future__ import annotations

import secrets
from typing import Final

import redis
import requests

from auth_service.oauth.issuer_keys import fetch_keys
from auth_service.oauth.safe_fetch import make_fetcher
from auth_service.protocol import jwk_sets
from auth_service.protocol.errors import ClientDocumentError, WritesRefused
from auth_service.protocol.jwk_sets import KeySetError
from auth_service.settings import Credentials, GitHub, OpenIDConnect, Settings, TrustedIssuer
from auth_service.storage.grants import new_sid
from auth_service.storage.store import Store

from .findings import TIMEOUT_SECONDS, CheckFailed, Status
from .web import get_json

OLDEST_REDIS: Final = (6, 2)
_COMPARE_ISSUER: Final = "Write identity_provider.issuer exactly as the provider does, including a slash at the end."
_PUBLISH_KEYS: Final = (
    "Users of declared clients with user_assertions (userAssertions) get no token: the provider must publish the keys "
    "with which it signs their assertions."
)


def check_redis(settings: Settings, store: Store) -> str:
    """Check that Redis answers, takes writes and keeps them."""
    connection = store.redis
    try:
        info = connection.info()
    except redis.RedisError as error:
        raise CheckFailed(
            f"{settings.redis_url}: {error}",
            "No access is granted without Redis. Start it (systemctl status redis-mcp-oauth-gateway), and see that "
            "this user may use its socket.",
        ) from error
    try:
        store.identifiers.use_once(new_sid(), seconds=1)
    except WritesRefused as error:
        raise CheckFailed(
            f"takes no writes: {error.reason}",
            "No user can log in and no token can be refreshed. Requests with a token pass, and `users revoke` and "
            "`grants revoke` still end access. Free space on the disk, or memory, that Redis uses; it takes writes "
            "again a moment later.",
        ) from error
    version = str(info["redis_version"])
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_REDIS:
        raise CheckFailed(f"version {version} is too old", "Install Redis 6.2 or newer.")
    if info.get("maxmemory", 0) and info.get("maxmemory_policy") != "noeviction":
        raise CheckFailed(
            f"drops keys when its memory is full ({info['maxmemory_policy']})",
            "Set maxmemory-policy to noeviction: the user of an evicted grant has to log in again.",
            status=Status.WARNING,
        )
    if not info.get("aof_enabled"):
        raise CheckFailed(
            "forgets everything when it stops",
            "Set appendonly to yes. Without it every client has to register again after a restart.",
            status=Status.WARNING,
        )
    return f"version {version}, {info['used_memory_human']} used, appendonly"


def check_identity_provider(http: requests.Session, settings: Settings, credentials: Credentials) -> str:
    """Check that the identity provider answers, and knows this gateway where it says so."""
    provider = settings.identity_provider
    if isinstance(provider, OpenIDConnect):
        vouches = any(client.user_assertions for client in settings.declared_clients.values())
        return _check_openid(http, provider, vouches=vouches)
    return _check_github(http, provider, credentials)


def _check_github(http: requests.Session, provider: GitHub, credentials: Credentials) -> str:
    # GitHub answers 404 for a token that it does not know, and 401 for credentials that it does not know.
    answer = http.post(
        f"{provider.api_url}/applications/{provider.client_id}/token",
        json={"access_token": "gho_" + secrets.token_hex(18)},
        auth=(provider.client_id, credentials.client_secret),
        timeout=TIMEOUT_SECONDS,
    )
    if answer.status_code == 401:
        raise CheckFailed(
            "GitHub does not know this client id and secret",
            "Compare identity_provider.client_id and the credential client-secret with the application's page.",
        )
    if answer.status_code >= 500:
        raise CheckFailed(f"{provider.api_url} answers {answer.status_code}", "See https://www.githubstatus.com/.")
    return f"{provider.api_url} answers, and accepts the client's secret"


def _check_openid(http: requests.Session, provider: OpenIDConnect, *, vouches: bool) -> str:
    """Check the discovery document, and the keys where the provider vouches for users of declared clients (ID-JAG)."""
    url = f"{provider.issuer.removesuffix('/')}/.well-known/openid-configuration"
    document = get_json(http, url, advice=_COMPARE_ISSUER)
    if document.get("issuer") != provider.issuer:
        raise CheckFailed(
            f"{url} names the issuer {document.get('issuer')}",
            _COMPARE_ISSUER,
        )
    if not vouches:
        return f"{provider.issuer} is found"
    jwks_uri = document.get("jwks_uri")
    try:
        if not isinstance(jwks_uri, str):
            raise KeySetError("has no jwks_uri in the discovery document")
        keys = jwk_sets.parse(get_json(http, jwks_uri, advice=_PUBLISH_KEYS))
    except KeySetError as error:
        raise CheckFailed(
            f"{provider.issuer}: its key set {error}",
            _PUBLISH_KEYS,
        ) from error
    return f"{provider.issuer} is found, with {len(keys)} keys for the assertions of its users"


def check_trusted_issuer(settings: Settings, trusted: TrustedIssuer) -> str:
    """Check that the keys of an issuer, whose tokens workloads exchange, can be had."""
    if trusted.jwks is not None:
        return f"{trusted.issuer}: {len(jwk_sets.parse(trusted.jwks))} keys in the settings"
    try:
        keys = fetch_keys(trusted.issuer, make_fetcher(settings.client_documents))
    except ClientDocumentError as error:
        because = f" ({error.__cause__})" if error.__cause__ is not None else ""
        raise CheckFailed(
            f"{trusted.issuer}: the keys cannot be fetched: {error}{because}",
            "Its workloads get no token (503) once the last known keys are a day old. This host needs name resolution "
            "and outgoing https, or client_documents.proxy (clientDocuments.proxy). For an issuer that is not at a "
            "public address, set jwks (keysFile).",
        ) from error
    return f"{trusted.issuer}: {len(keys)} keys found by its discovery document"
