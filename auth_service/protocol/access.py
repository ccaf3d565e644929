"""Who may use what: compare allow-lists with what the identity provider says of a user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from auth_service.settings import AllowList


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A user as the identity provider knows them.

    `organizations`, `teams` and `groups` are those of the settings that the user is a member of.
    """

    subject: str
    """The provider and its immutable id, `github:583231`."""
    login: str
    organizations: frozenset[str] = frozenset()
    teams: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()


def login_entry(profile: Profile, allowed: AllowList, *, pins: Mapping[str, str]) -> str | None:
    """Return the entry of `allowed.users`, in lower case, that admits this user.

    `pins` maps lower-case login names to the subject that first used each. A login name can change hands, so from then
    on an entry admits that subject only, whatever its login name is.
    """
    for entry in map(fold, allowed.users):
        pinned = pins.get(entry)
        if pinned == profile.subject or (pinned is None and entry == fold(profile.login)):
            return entry
    return None


def fold(login: str) -> str:
    """Return the form in which login names are compared: lower case, for ASCII only.

    Other characters may have one lower-case form for two users' names. A subject, which stands in for a login name that
    the provider does not vouch for, keeps its case too (`sub`, OpenID Connect Core §2).
    """
    return login.lower() if login.isascii() and not login.startswith("oidc:") else login


def is_member(profile: Profile, allowed: AllowList) -> bool:
    """Whether one of the user's organizations, teams or groups is on the list. An empty list admits no user."""
    organizations = {name.lower() for name in allowed.organizations}
    teams = {name.lower() for name in allowed.teams}
    return bool(profile.organizations & organizations or profile.teams & teams or profile.groups & set(allowed.groups))
