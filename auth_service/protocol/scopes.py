"""Scopes (RFC 6749 §3.3): per resource, narrowed and never widened."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from .errors import OAuthError

OFFLINE_ACCESS: Final = "offline_access"
"""Advertised by the authorization server alone, and no scope of a resource: it asks for a refresh token."""
HABITUAL: Final = frozenset({"openid", "profile", "email", "address", "phone", OFFLINE_ACCESS})
"""What OpenID Connect clients ask for whatever the server is (Core §5.4 and §11). It decides nothing here."""


def parse(scope: str | None) -> tuple[str, ...]:
    """Return the scope tokens of a `scope` parameter, each once, in the order given."""
    return tuple(dict.fromkeys(token for token in (scope or "").split(" ") if token))


def grantable(requested: tuple[str, ...], *, supported: Collection[str], default: Collection[str]) -> tuple[str, ...]:
    """Return the scopes to ask the user's consent for.

    Scopes that the resource does not have are left out, as RFC 6749 §3.3 allows. Raises OAuthError `invalid_scope` if
    nothing remains of a request that named more than habitual ones.
    """
    return _known(requested, supported) or tuple(default)


def narrowed(requested: tuple[str, ...], *, granted: tuple[str, ...]) -> tuple[str, ...]:
    """Return the scopes of a refreshed token: those granted, or the fewer that the client asks for (RFC 6749 §6).

    What was never granted is left out: clients repeat what they asked for at login, of which the user may have granted
    less. Raises OAuthError `invalid_scope` if nothing remains of a request that named more than habitual ones.
    """
    return _known(requested, granted) or granted


def registered(requested: tuple[str, ...], *, supported: Collection[str]) -> tuple[str, ...]:
    """Return the scopes that a registration may name (RFC 7591 §2): those that there are, and `offline_access`."""
    return tuple(scope for scope in requested if scope in supported or scope == OFFLINE_ACCESS)


def _known(requested: tuple[str, ...], scopes: Collection[str]) -> tuple[str, ...]:
    """Return what is requested of these scopes; nothing for a request that names nothing else than habitual ones."""
    known = tuple(scope for scope in requested if scope in scopes)
    if not known and not HABITUAL.issuperset(requested):
        raise OAuthError("invalid_scope", f"ask for any of these scopes, or for none: {' '.join(scopes)}")
    return known
