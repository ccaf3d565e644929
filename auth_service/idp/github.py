"""GitHub and GitHub Enterprise Server as identity provider."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Final
from urllib.parse import quote, urlencode

from auth_service.protocol.access import Profile
from auth_service.protocol.errors import LoginError, ServiceUnavailable
from auth_service.settings import GitHub

from . import Login, SignOn, http, provider_errors, provider_name

EXPIRY_MARGIN_SECONDS: Final = 60

log = logging.getLogger(__name__)

# `required; url=https://github.com/orgs/acme/sso?authorization_request=…`
_SIGN_ON = re.compile(r"required\s*(?:;\s*url=(?P<url>\S*))?.*")
_VISIBLE = re.compile(r"[!#-&(-;=?-\[\]-_a-~]{1,2048}")
"""A link consists of visible ASCII without quotes, angle brackets and backslashes."""
_LOGIN = re.compile(r"[A-Za-z0-9_-]{1,100}(?:\[bot\])?")
# Python refuses to read thousands of digits.
_MAX_LIFETIME_DIGITS = 9


class _SignOnRequiredError(Exception):
    """GitHub does not say who is a member of an organization before the single sign-on at this URL."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.url = url


@dataclass(frozen=True, kw_only=True)
class _Tokens:
    """The tokens of a user. An OAuth app's token does not expire; a GitHub App's does, and has a refresh token."""

    access_token: str = field(repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    expires_at: float | None = None

    @classmethod
    def parse(cls, kept: str) -> _Tokens:
        """Return the tokens from the text that `dump` made."""
        return cls(**json.loads(kept)) if kept.startswith("{") else cls(access_token=kept)

    def dump(self) -> str:
        """Return the tokens as one text."""
        return self.access_token if self.refresh_token is None else json.dumps(asdict(self))

    @property
    def refresh_with(self) -> str | None:
        """The refresh token, if the access token has expired or is about to."""
        is_over = self.expires_at is not None and self.expires_at - EXPIRY_MARGIN_SECONDS <= time.time()
        return self.refresh_token if is_over else None


class GitHubProvider:
    """Log in through GitHub's OAuth web flow, with PKCE."""

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
        """`organizations` and `teams` (`organization/slug`) are those in which memberships are looked up."""
        self.name = provider_name(settings)
        self._settings = settings
        self._client_secret = client_secret
        self._callback_url = callback_url
        self._explain = partial(provider_errors.explain, provider=self.title, callback=callback_url)
        self._organizations = organizations
        self._teams = teams

    def authorization_url(self, *, state: str, code_challenge: str) -> str:
        """Return the URL of GitHub's login page. The scope `read:org` is requested only if it is needed."""
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
        """Exchange the code, then ask who the user is and which of the configured memberships the user has."""
        with http.Session() as session:
            answer = self._call_token_endpoint(
                session, {"code": code, "redirect_uri": self._callback_url, "code_verifier": code_verifier}
            )
            tokens = _find_tokens(answer)
            if tokens is None:
                raise self._explain(answer, is_vouched=True)
            sign_ons: dict[str, str] = {}
            profile = self._identify(session, tokens.access_token, sign_ons=sign_ons)
        # Also without memberships in the settings: these may be added, and logins should outlive that.
        return Login(
            profile=profile,
            token=tokens.dump(),
            sign_ons=tuple(SignOn(organization=name, url=url) for name, url in sign_ons.items()),
        )

    def explain_refusal(self, parameters: Mapping[str, str]) -> LoginError | ServiceUnavailable:
        """Return the error for GitHub's answer at the callback."""
        return self._explain(parameters, is_vouched=False)

    def identify(self, token: str, *, replaced: Callable[[str], None]) -> Profile:
        """Ask GitHub again for name and memberships. Raises LoginError if the token is revoked."""
        tokens = _Tokens.parse(token)
        with http.Session() as session:
            if (refresh_token := tokens.refresh_with) is not None:
                tokens = self._refresh(session, refresh_token)
                replaced(tokens.dump())
            return self._identify(session, tokens.access_token)

    def _refresh(self, session: http.Session, refresh_token: str) -> _Tokens:
        """Return new tokens. Raises LoginError if GitHub refuses the refresh token."""
        answer = self._call_token_endpoint(session, {"grant_type": "refresh_token", "refresh_token": refresh_token})
        if (tokens := _find_tokens(answer)) is not None:
            return tokens
        if answer.get("error") == "bad_refresh_token":
            raise LoginError("GitHub refused its refresh token")
        # Only the operator can mend a wrong client secret, so no login ends by it.
        error = self._explain(answer, is_vouched=True)
        raise error if isinstance(error, ServiceUnavailable) else ServiceUnavailable("GitHub")

    def _call_token_endpoint(self, session: http.Session, form: dict[str, str]) -> dict[str, Any]:
        answer = _call(
            session,
            "POST",
            f"{self._settings.url}/login/oauth/access_token",
            data={"client_id": self._settings.client_id, "client_secret": self._client_secret, **form},
            statuses=(200, 400),  # GitHub reports most errors with 200
        )
        return answer or {}

    def _identify(self, session: http.Session, token: str, *, sign_ons: dict[str, str] | None = None) -> Profile:
        """Return the user of the token. `sign_ons` receives, by organization, the URL of its single sign-on."""
        sign_ons = {} if sign_ons is None else sign_ons
        try:
            user = self._api(session, token, "/user")
        except _SignOnRequiredError as error:
            raise LoginError("GitHub does not name the user before a single sign-on") from error
        if user is None:
            raise LoginError("GitHub does not know the user of its own token")
        user_id, login = user.get("id"), user.get("login")
        if not isinstance(user_id, int) or isinstance(user_id, bool) or user_id <= 0:
            raise ServiceUnavailable("GitHub")
        if not isinstance(login, str) or not _LOGIN.fullmatch(login):
            raise ServiceUnavailable("GitHub")
        organizations = {
            name
            for name in self._organizations
            if self._is_active(session, token, f"/user/memberships/orgs/{quote(name, safe='')}", name, sign_ons)
        }
        teams = set()
        for name in self._teams:
            organization, _, slug = name.partition("/")
            team = f"/orgs/{quote(organization, safe='')}/teams/{quote(slug, safe='')}"
            path = f"{team}/memberships/{quote(login, safe='')}"
            if self._is_active(session, token, path, organization, sign_ons):
                teams.add(name)
        return Profile(
            subject=f"{self.name}:{user_id}",
            login=login,
            organizations=frozenset(organizations),
            teams=frozenset(teams),
        )

    def _is_active(
        self, session: http.Session, token: str, path: str, organization: str, sign_ons: dict[str, str]
    ) -> bool:
        try:
            membership = self._api(session, token, path)
        except _SignOnRequiredError as error:
            sign_ons[organization] = self._find_sign_on_page(error.url)
            return False
        return membership is not None and membership.get("state") == "active"

    def _find_sign_on_page(self, url: str) -> str:
        """Return GitHub's link if it leads to GitHub, else the page with this application's access at GitHub."""
        if url.startswith(f"{self._settings.url}/") and _VISIBLE.fullmatch(url):
            return url
        log.error("GitHub's X-GitHub-SSO does not lead to %s: %.200r", self._settings.url, url)
        return f"{self._settings.url}/settings/connections/applications/{quote(self._settings.client_id, safe='')}"

    def _api(self, session: http.Session, token: str, path: str) -> dict[str, Any] | None:
        return _call(session, "GET", f"{self._settings.api_url}{path}", token=token)


def _call(
    session: http.Session,
    method: str,
    url: str,
    *,
    token: str | None = None,
    data: dict[str, str] | None = None,
    statuses: Collection[int] = (200,),
) -> dict[str, Any] | None:
    """Return the JSON object of GitHub's answer, None for 403 and 404, with which it hides what a user may not see.

    `statuses` are those whose object is returned. Raises LoginError if GitHub refuses the token, _SignOnRequiredError
    if an organization requires its single sign-on, ServiceUnavailable for any other status.
    """
    answer = http.call(session, method, url, provider="GitHub", token=token, data=data)
    if answer.status == 401:
        raise LoginError("GitHub refused its token")
    if answer.status == 403 and (found := _SIGN_ON.fullmatch(answer.headers.get("X-GitHub-SSO", ""))) is not None:
        raise _SignOnRequiredError(found["url"] or "")
    if answer.status == 404 or (answer.status == 403 and not _is_rate_limited(answer)):
        return None
    if answer.status not in statuses:
        raise ServiceUnavailable("GitHub")
    return answer.document()


def _find_tokens(answer: dict[str, Any]) -> _Tokens | None:
    access_token, refresh_token, lifetime = map(answer.get, ("access_token", "refresh_token", "expires_in"))
    if not isinstance(access_token, str) or not access_token:
        return None
    # GitHub has also sent the number as text.
    digits = str(lifetime)
    if not isinstance(refresh_token, str) or not digits.isdecimal() or len(digits) > _MAX_LIFETIME_DIGITS:
        return _Tokens(access_token=access_token)
    return _Tokens(access_token=access_token, refresh_token=refresh_token, expires_at=time.time() + int(digits))


def _is_rate_limited(answer: http.Answer) -> bool:
    """Whether a 403 is one of GitHub's rate limits.

    Taken for a refusal, it would end the grants of members.
    """
    return (
        answer.headers.get("X-RateLimit-Remaining") == "0"
        or "Retry-After" in answer.headers
        or b"rate limit" in answer.body.lower()
    )
