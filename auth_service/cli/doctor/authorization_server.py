"""The authorization server: whether it is ready, and what clients see of it."""

from __future__ import annotations

import os
import socket
import ssl
import time
from typing import Final
from urllib.parse import urlsplit

import requests

from auth_service.keys.signing_keys import SigningKeys
from auth_service.oauth import document_probe
from auth_service.oauth.safe_fetch import make_fetcher
from auth_service.settings import Settings

from .findings import LOG_COMMAND, TIMEOUT_SECONDS, CheckFailed, Status
from .web import get_json

CERTIFICATE_WARNING_DAYS: Final = 14

_DAY: Final = 86400
_INTERNAL_PATHS: Final = ("/routes", "/metrics", "/readyz")


def check_service(http: requests.Session, settings: Settings) -> str:
    """Check that the auth service is ready."""
    url = f"{settings.internal_url}/readyz"
    answer = http.get(url, timeout=TIMEOUT_SECONDS, allow_redirects=False)
    if answer.status_code != 200:
        raise CheckFailed(f"{url} answers {answer.status_code}", f"See its log: {LOG_COMMAND} --unit=mcp-auth-service")
    return "answers, and reaches Redis"


def check_issuer(http: requests.Session, settings: Settings) -> str:
    """Check that the metadata of the authorization server is at its place."""
    issuer = settings.issuer
    url = authorization_server_url(settings)
    found = get_json(http, url).get("issuer")
    if found != issuer:
        raise CheckFailed(
            f"{url} names the issuer {found}",
            f"Another program answers there, or the service runs with other settings. Clients require {issuer}.",
        )
    return f"{issuer} names itself as the issuer"


def authorization_server_url(settings: Settings) -> str:
    """Return where the metadata of the authorization server is."""
    parts = urlsplit(settings.issuer)
    return f"{parts.scheme}://{parts.netloc}/.well-known/oauth-authorization-server{parts.path}"


def check_keys(http: requests.Session, settings: Settings, keys: SigningKeys) -> str:
    """Check that clients get the keys of this host."""
    published = {key.get("kid") for key in get_json(http, f"{settings.issuer}/jwks").get("keys", [])}
    if missing := {key.kid for key in keys.all()} - published:
        raise CheckFailed(
            f"{', '.join(sorted(missing))} is not published",
            "An instance with another master key or Redis answers: all instances need the same.",
        )
    return f"{len(published)} published"


def check_internal(http: requests.Session, settings: Settings) -> str:
    """Check that no path for other parts of the gateway can be reached."""
    parts = urlsplit(settings.issuer)
    for path in (*_INTERNAL_PATHS, *(f"/verify/{name}" for name in settings.resources)):
        url = f"{parts.scheme}://{parts.netloc}{path}"
        status = http.get(url, timeout=TIMEOUT_SECONDS, allow_redirects=False).status_code
        if status not in {403, 404}:
            raise CheckFailed(
                f"{url} answers {status}: it is reachable from outside",
                "Route to the service only the paths that its GET /routes names.",
            )
    return "are not reachable from outside"


def check_client_documents(http: requests.Session, settings: Settings) -> str:
    """Check that documents of clients can be fetched from this host, and that the service says so."""
    documents = settings.client_documents
    if not documents.enabled:
        return "are off: every client registers"
    fetcher = make_fetcher(documents)
    if problems := document_probe.find_problems(fetcher, document_probe.targets_of(documents)):
        raise CheckFailed(
            "; ".join(problems),
            "Until they can be fetched, metadata does not offer them, and clients register instead. This host "
            "needs name resolution and outgoing https, or client_documents.proxy (clientDocuments.proxy).",
            status=Status.WARNING,
        )
    if not get_json(http, authorization_server_url(settings)).get("client_id_metadata_document_supported"):
        raise CheckFailed(
            "can be fetched from here, but the service does not offer them",
            f"It tries again within {document_probe.MAX_RETRY_SECONDS // 60} minutes. If that does not help, the "
            f"service cannot reach what this user can. See its log: {LOG_COMMAND} --unit=mcp-auth-service",
            status=Status.WARNING,
        )
    by = f" through {documents.proxy}" if documents.proxy is not None else ""
    who = ", which alone resolves names and can refuse internal addresses" if documents.proxy_resolves_names else ""
    return f"can be fetched{by}{who}"


def tls_hosts(settings: Settings) -> set[tuple[str, int]]:
    """Return the public hosts with https, each with its port."""
    urls = [settings.issuer, *(resource.url for resource in settings.resources.values())]
    parts = [urlsplit(url) for url in urls]
    return {(part.hostname or "", part.port or 443) for part in parts if part.scheme == "https"}


def check_certificate(host: str, port: int) -> str:
    """Return until when a host's certificate is valid. Raises CheckFailed if it expires soon."""
    context = ssl.create_default_context(cafile=os.environ.get("REQUESTS_CA_BUNDLE"))
    with (
        socket.create_connection((host, port), timeout=TIMEOUT_SECONDS) as connection,
        context.wrap_socket(connection, server_hostname=host) as secured,
    ):
        certificate = secured.getpeercert() or {}
    days = int((ssl.cert_time_to_seconds(str(certificate["notAfter"])) - time.time()) // _DAY)
    if days < CERTIFICATE_WARNING_DAYS:
        raise CheckFailed(
            f"ends in {days} days",
            "It should be renewed already: see Traefik's log for ACME errors.",
            status=Status.WARNING,
        )
    return f"good for {days} days"
