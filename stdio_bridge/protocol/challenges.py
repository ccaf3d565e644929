"""Refusals with a challenge, which sends a client to its authorization server (RFC 6750 §3, RFC 9728 §5.1)."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from . import jsonrpc
from .errors import HttpError

_STATUS = {"insufficient_scope": "403 Forbidden", "invalid_token": "401 Unauthorized"}


def challenged(error: str, text: str, *, resource: str | None, scopes: Iterable[str]) -> HttpError:
    """Return a refusal with a challenge, for the OAuth error `insufficient_scope` or `invalid_token`.

    `scopes` is every scope that the next token should have: clients ask for those of the challenge alone.
    """
    members = {"error": error, "error_description": text}
    if resource is not None:
        members["resource_metadata"] = _metadata_url(resource)
    if wanted := " ".join(sorted(scopes)):
        members["scope"] = wanted
    header = "Bearer " + ", ".join(f'{name}="{value}"' for name, value in members.items())
    return HttpError(_STATUS[error], jsonrpc.SERVER_ERROR, text, headers=(("WWW-Authenticate", header),))


def _metadata_url(resource: str) -> str:
    """Return the URL of a resource's metadata document (RFC 9728 §3.1)."""
    parts = urlsplit(resource)
    return f"{parts.scheme}://{parts.netloc}/.well-known/oauth-protected-resource{parts.path}"
