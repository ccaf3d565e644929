"""Who may use what: allow-lists against an identity that the identity provider vouched for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from auth_service.settings import AllowList


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A user as the identity provider knows them.

    `organizations`, `teams` and `groups` are those of the configured ones that the user was found to be in.
    """

    subject: str
    """The provider and its immutable id, `github:583231`."""
    login: str
    organizations: frozenset[str] = frozenset()
    teams: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()


def login_entry(identity: Identity, allowed: AllowList, *, pins: Mapping[str, str]) -> str | None:
    """Return the entry of `allowed.users`, in lower case, by which this user is let in.

    `pins` maps lower-case logins to the subject that first used each: logins get renamed and taken by others,
    so an entry means that subject ever after, whatever it is called by then.
    """
    for entry in map(fold, allowed.users):
        pinned = pins.get(entry)
        if pinned == identity.subject or (pinned is None and entry == fold(identity.login)):
            return entry
    return None


def fold(login: str) -> str:
    """Return the form in which logins are compared. ASCII only: elsewhere lower case makes one of two people.

    So it does of subjects, which stand in where a provider vouches for no name: `sub` has a case (OpenID Connect
    Core §2).
    """
    return login.lower() if login.isascii() and not login.startswith("oidc:") else login


def is_member(identity: Identity, allowed: AllowList) -> bool:
    """Whether one of the user's organizations, teams or groups is on the list. An empty list admits nobody."""
    organizations = {name.lower() for name in allowed.organizations}
    teams = {name.lower() for name in allowed.teams}
    return bool(
        identity.organizations & organizations or identity.teams & teams or identity.groups & set(allowed.groups)
    )
