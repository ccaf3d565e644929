"""Scopes (RFC 6749 §3.3) of each resource. A later request may narrow them and never widen them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from .errors import OAuthError

OFFLINE_ACCESS: Final = "offline_access"
"""A scope of the authorization server and of no resource: it asks for a refresh token."""
HABITUAL: Final = frozenset({"openid", "profile", "email", "address", "phone", OFFLINE_ACCESS})
"""Scopes that OpenID Connect clients request from every server (Core §5.4 and §11). They decide nothing here."""


def parse(scope: str | None) -> tuple[str, ...]:
    """Return the scope tokens of a `scope` parameter, each once, in the order given."""
    return tuple(dict.fromkeys(token for token in (scope or "").split(" ") if token))


def grantable(requested: tuple[str, ...], *, supported: Collection[str], default: Collection[str]) -> tuple[str, ...]:
    """Return the scopes to ask the user's consent for.

    Unknown scopes are left out, as RFC 6749 §3.3 allows. Raises OAuthError `invalid_scope` if a request names unknown
    scopes, other than habitual ones, and no known scope.
    """
    return _known(requested, supported) or tuple(default)


def narrowed(requested: tuple[str, ...], *, granted: tuple[str, ...]) -> tuple[str, ...]:
    """Return the scopes of a refreshed token: the granted ones, or those of them that it asks for (RFC 6749 §6).

    Scopes that were never granted are left out: clients repeat the scopes of the login, of which the user may have
    allowed only some. Raises OAuthError `invalid_scope` as `grantable` does.
    """
    return _known(requested, granted) or granted


def registered(requested: tuple[str, ...], *, supported: Collection[str]) -> tuple[str, ...]:
    """Return the scopes that are registered (RFC 7591 §2): the supported ones and `offline_access`."""
    return tuple(scope for scope in requested if scope in supported or scope == OFFLINE_ACCESS)


def _known(requested: tuple[str, ...], scopes: Collection[str]) -> tuple[str, ...]:
    """Return the requested scopes that are among these; none if the request names only habitual ones."""
    known = tuple(scope for scope in requested if scope in scopes)
    if not known and not HABITUAL.issuperset(requested):
        raise OAuthError("invalid_scope", f"ask for one or more of these scopes, or for none: {' '.join(scopes)}")
    return known
