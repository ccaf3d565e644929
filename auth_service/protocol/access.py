"""Who may use what: allow-lists against an identity that the identity provider vouched for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from auth_service.settings import AllowList


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A user as the identity provider knows them.

    `organizations` and `teams` are those of the configured ones that the user was found to be in.
    """

    subject: str
    """The provider and its immutable id, `github:583231`."""
    login: str
    organizations: frozenset[str] = frozenset()
    teams: frozenset[str] = frozenset()


def login_entry(identity: Identity, allowed: AllowList, *, pins: Mapping[str, str]) -> str | None:
    """Return the entry of `allowed.users`, in lower case, by which this user is let in.

    `pins` maps lower-case logins to the subject that first used each: logins get renamed and taken by others,
    so an entry means that subject ever after, whatever it is called by then.
    """
    for login in allowed.users:
        pinned = pins.get(login.lower())
        if pinned == identity.subject or (pinned is None and login.lower() == identity.login.lower()):
            return login.lower()
    return None


def is_member(identity: Identity, allowed: AllowList) -> bool:
    """Whether one of the user's organizations or teams is on the list. An empty list admits nobody."""
    organizations = {name.lower() for name in allowed.organizations}
    teams = {name.lower() for name in allowed.teams}
    return bool(identity.organizations & organizations or identity.teams & teams)
