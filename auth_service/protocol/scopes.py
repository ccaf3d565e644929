"""Scopes (RFC 6749 §3.3): per resource, narrowed and never widened."""

from __future__ import annotations

from collections.abc import Collection

from auth_service.errors import OAuthError


def parse(scope: str | None) -> tuple[str, ...]:
    """Return the scope tokens of a `scope` parameter, each once, in the order given."""
    return tuple(dict.fromkeys(token for token in (scope or "").split(" ") if token))


def grantable(requested: tuple[str, ...], *, supported: Collection[str], default: Collection[str]) -> tuple[str, ...]:
    """Return the scopes to ask the user's consent for.

    Scopes that the resource does not have are left out, as RFC 6749 §3.3 allows: clients add `openid` or
    `offline_access` by habit. Raises OAuthError `invalid_scope` if nothing remains.
    """
    if not requested:
        return tuple(default)
    known = tuple(scope for scope in requested if scope in supported)
    if not known:
        raise OAuthError("invalid_scope", f"supported scopes: {' '.join(supported)}")
    return known


def narrowed(requested: tuple[str, ...], *, granted: tuple[str, ...]) -> tuple[str, ...]:
    """Return the scopes of a refreshed token: those granted, or the fewer that the client asks for (§6).

    Raises OAuthError `invalid_scope` for one that was never granted.
    """
    if not set(requested) <= set(granted):
        raise OAuthError("invalid_scope", f"granted scopes: {' '.join(granted)}")
    return requested or granted
