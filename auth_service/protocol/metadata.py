"""The metadata documents of the gateway (RFC 8414, OpenID Connect Discovery, RFC 9728), and their paths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from . import clients, jwk_sets, pkce
from .scopes import OFFLINE_ACCESS

AUTHORIZATION_SERVER = "/.well-known/oauth-authorization-server"
OPENID_CONFIGURATION = "/.well-known/openid-configuration"
PROTECTED_RESOURCE = "/.well-known/oauth-protected-resource"
ENDPOINTS_AT_EVERY_HOST = ("/authorize", "/register", "/token", "/revoke")
"""Paths that clients of MCP 2025-03-26 request at the MCP server's host, whatever the metadata says."""


def authorization_server(
    issuer: str, *, scopes: list[str], client_documents: bool, machines: bool, workloads: bool, user_assertions: bool
) -> dict[str, Any]:
    """Return the RFC 8414 document, which is the OpenID discovery document too.

    `machines` says whether there are clients that get tokens for themselves, `workloads` whether an issuer of
    workloads' tokens is trusted, `user_assertions` whether the identity provider may vouch for the users of a client.
    """
    auth_methods = list(clients.REGISTRATION_AUTH_METHODS)
    return {
        "issuer": issuer,
        "authorization_endpoint": f"{issuer}/authorize",
        "token_endpoint": f"{issuer}/token",
        "registration_endpoint": f"{issuer}/register",
        "revocation_endpoint": f"{issuer}/revoke",
        "jwks_uri": f"{issuer}/jwks",
        "scopes_supported": [*scopes, OFFLINE_ACCESS],
        "response_types_supported": list(clients.RESPONSE_TYPES_SUPPORTED),
        "response_modes_supported": ["query"],
        "grant_types_supported": [
            *clients.GRANT_TYPES_SUPPORTED,
            *([clients.CLIENT_CREDENTIALS] if machines else []),
            *([clients.JWT_BEARER_GRANT] if workloads or user_assertions else []),
        ],
        **({"authorization_grant_profiles_supported": [clients.ID_JAG_PROFILE]} if user_assertions else {}),
        "token_endpoint_auth_methods_supported": auth_methods,
        "token_endpoint_auth_signing_alg_values_supported": list(jwk_sets.ALGORITHMS),
        "revocation_endpoint_auth_methods_supported": auth_methods,
        "revocation_endpoint_auth_signing_alg_values_supported": list(jwk_sets.ALGORITHMS),
        "introspection_endpoint": f"{issuer}/introspect",
        "introspection_endpoint_auth_methods_supported": [method for method in auth_methods if method != "none"],
        "introspection_endpoint_auth_signing_alg_values_supported": list(jwk_sets.ALGORITHMS),
        "code_challenge_methods_supported": list(pkce.METHODS_SUPPORTED),
        "authorization_response_iss_parameter_supported": True,
        "client_id_metadata_document_supported": client_documents,
        # No ID token is ever issued. OpenID Connect Discovery §3 requires the members, and RS256 among the algorithms.
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
    }


def authorization_server_paths(issuer: str) -> tuple[str, ...]:
    """Return the paths of that document on the issuer's host.

    If the issuer has a path, RFC 8414 §3.1 inserts the well-known segment before it, OpenID Connect Discovery §4
    appends the segment to it, and clients also try the root.
    """
    path = urlsplit(issuer).path
    roots = (AUTHORIZATION_SERVER, OPENID_CONFIGURATION)
    if not path:
        return roots
    return (
        *roots,
        *(f"{root}{path}" for root in roots),
        *(f"{path}{root}" for root in roots),
    )


def protected_resource(url: str, *, issuer: str, title: str, scopes: list[str]) -> dict[str, Any]:
    """Return the RFC 9728 document of one resource."""
    return {
        "resource": url,
        "resource_name": title,
        "authorization_servers": [issuer],
        "scopes_supported": scopes,
        "bearer_methods_supported": ["header"],
    }


def protected_resource_url(url: str) -> str:
    """Return the URL of a resource's document, with the well-known segment before the path (RFC 9728 §3.1)."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{PROTECTED_RESOURCE}{parts.path}"


def find_protected_resource(locations: Mapping[tuple[str, str], str], *, host: str, path: str) -> str | None:
    """Return the resource of the document that a request asks for, by its path and its Host header.

    The port of the header is ignored if the name identifies the resource: a proxy or a port forwarding may have changed
    it, and routes go by names too.
    """
    if (exact := locations.get((host.lower(), path))) is not None:
        return exact
    name = _name_of(host)
    found = {owner for (netloc, at), owner in locations.items() if at == path and _name_of(netloc) == name}
    return found.pop() if len(found) == 1 else None


def _name_of(netloc: str) -> str | None:
    try:
        return urlsplit(f"//{netloc}").hostname
    except ValueError:
        return None


def protected_resource_locations(urls: Mapping[str, str]) -> dict[tuple[str, str], str]:
    """Map (host with port, path) to the name of the resource whose document is there; `urls` maps names to URLs.

    The root of a host has a document only if the host has exactly one resource.
    """
    locations: dict[tuple[str, str], str] = {}
    by_host: dict[str, list[str]] = {}
    for name, url in urls.items():
        parts = urlsplit(url)
        locations[parts.netloc, f"{PROTECTED_RESOURCE}{parts.path}"] = name
        by_host.setdefault(parts.netloc, []).append(name)
    for host, names in by_host.items():
        if len(names) == 1:
            locations.setdefault((host, PROTECTED_RESOURCE), names[0])
    return locations
