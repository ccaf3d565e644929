"""GitHub and GitHub Enterprise Server as identity provider."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, urlencode

import requests

from auth_service.errors import LoginError, ServiceUnavailable
from auth_service.protocol.access import Identity
from auth_service.settings import GitHub

from . import Login, http, provider_name

_LOGIN = re.compile(r"[A-Za-z0-9_-]{1,100}(?:\[bot\])?")


class GitHubProvider:
    """Logs in through GitHub's OAuth web flow, with PKCE."""

    title = "GitHub"
    rechecks_names = False

    def __init__(
        self,
        settings: GitHub,
        *,
        client_secret: str,
        callback_url: str,
        organizations: frozenset[str],
        teams: frozenset[str],
    ) -> None:
        """`organizations` and `teams` (`organization/slug`) are those whose members are to be told apart."""
        self.name = provider_name(settings)
        self._settings = settings
        self._client_secret = client_secret
        self._callback_url = callback_url
        self._organizations = organizations
        self._teams = teams

    def authorization_url(self, *, state: str, code_challenge: str) -> str:
        """Return GitHub's login page for this attempt. `read:org` is asked for only if it is needed."""
        parameters = {
            "client_id": self._settings.client_id,
            "redirect_uri": self._callback_url,
            "state": state,
            "code_challenge": code_challenge,
            "code_challenge_method": "S256",
        }
        if self._organizations or self._teams:
            parameters["scope"] = "read:org"
        return f"{self._settings.url}/login/oauth/authorize?{urlencode(parameters)}"

    def finish_login(self, *, code: str, code_verifier: str) -> Login:
        """Exchange the code, then ask who the user is and which of the configured memberships they hold."""
        with requests.Session() as session:
            answer = _call(
                session,
                "POST",
                f"{self._settings.url}/login/oauth/access_token",
                data={
                    "client_id": self._settings.client_id,
                    "client_secret": self._client_secret,
                    "code": code,
                    "redirect_uri": self._callback_url,
                    "code_verifier": code_verifier,
                },
            )
            token = answer.get("access_token") if answer else None
            if not isinstance(token, str) or not token:
                # GitHub reports errors of this endpoint with status 200.
                raise LoginError(f"GitHub refused the code: {(answer or {}).get('error')!r}")
            identity = self._identify(session, token)
        # Also where nothing asks for memberships today: what is configured changes, and logins should outlive that.
        return Login(identity=identity, token=token)

    def identify(self, token: str) -> Login:
        """Ask GitHub again: names and memberships change, and a revoked token raises LoginError."""
        with requests.Session() as session:
            return Login(identity=self._identify(session, token), token=token)

    def _identify(self, session: requests.Session, token: str) -> Identity:
        user = self._api(session, token, "/user")
        if user is None:
            raise LoginError("GitHub does not know its own token's user")
        user_id, login = user.get("id"), user.get("login")
        if not isinstance(user_id, int) or isinstance(user_id, bool) or user_id <= 0:
            raise ServiceUnavailable("GitHub")
        if not isinstance(login, str) or not _LOGIN.fullmatch(login):
            raise ServiceUnavailable("GitHub")
        organizations = {
            name
            for name in self._organizations
            if self._is_active(session, token, f"/user/memberships/orgs/{quote(name, safe='')}")
        }
        teams = set()
        for name in self._teams:
            organization, _, slug = name.partition("/")
            team = f"/orgs/{quote(organization, safe='')}/teams/{quote(slug, safe='')}"
            if self._is_active(session, token, f"{team}/memberships/{quote(login, safe='')}"):
                teams.add(name)
        return Identity(
            subject=f"{self.name}:{user_id}",
            login=login,
            organizations=frozenset(organizations),
            teams=frozenset(teams),
        )

    def _is_active(self, session: requests.Session, token: str, path: str) -> bool:
        membership = self._api(session, token, path)
        return membership is not None and membership.get("state") == "active"

    def _api(self, session: requests.Session, token: str, path: str) -> dict[str, Any] | None:
        return _call(session, "GET", f"{self._settings.api_url}{path}", token=token)


def _call(
    session: requests.Session,
    method: str,
    url: str,
    *,
    token: str | None = None,
    data: dict[str, str] | None = None,
) -> dict[str, Any] | None:
    """Return the JSON object that GitHub answers, None for 403 and 404 (it hides what one may not see).

    Raises LoginError if the token is no good, ServiceUnavailable for everything else that is no answer.
    """
    answer = http.call(session, method, url, provider="GitHub", token=token, data=data)
    if answer.status == 401:
        raise LoginError("GitHub refused its token")
    if answer.status == 404 or (answer.status == 403 and not _is_rate_limited(answer)):
        return None
    if answer.status != 200:
        raise ServiceUnavailable("GitHub")
    return answer.document()


def _is_rate_limited(answer: http.Answer) -> bool:
    """Whether a 403 means "not now" rather than "not you": GitHub's primary and secondary rate limits.

    Taken for "not you", it would end the grants of members.
    """
    return (
        answer.headers.get("X-RateLimit-Remaining") == "0"
        or "Retry-After" in answer.headers
        or b"rate limit" in answer.body.lower()
    )
