"""Any OpenID Connect provider, by discovery (OpenID Connect Core 1.0 and Discovery 1.0; RFC 9700)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, Generic, TypeGuard, TypeVar
from urllib.parse import quote_plus, urlsplit

import jwt

from auth_service.protocol import jwk_sets, redirect_uris
from auth_service.protocol.access import Profile
from auth_service.protocol.clients import USER_ID_PREFIXES
from auth_service.protocol.errors import LoginError, ServiceUnavailable, UnknownKey
from auth_service.protocol.jwk_sets import KeySetError, VerificationKey
from auth_service.protocol.jwt_checks import checking_all, decode, read_unverified
from auth_service.settings import OpenIDConnect, is_loopback_host

from . import Login, http, provider_errors, provider_name

DISCOVERY_PATH: Final = "/.well-known/openid-configuration"
CACHE_SECONDS: Final = 3600
"""For how long metadata and keys are used before they are fetched again."""
MAX_STALE_SECONDS: Final = 2 * 3600
"""For how long they are used while they cannot be fetched again: a key that the provider has withdrawn ends by then."""
RETRY_SECONDS: Final = 30
"""How many seconds must pass between two fetches, which an unknown `kid` or a failure causes."""
CLOCK_SKEW_SECONDS: Final = 30

_CHECKS: Final = checking_all(required=("iss", "sub", "aud", "exp", "iat"))
_MAX_TEXT: Final = 255
_ABOUT_THE_USER: Final = (
    *("invalid_grant", "access_denied"),
    *("interaction_required", "login_required", "account_selection_required", "consent_required"),
)
"""Errors of the token endpoint after which the user has to log in again."""

log = logging.getLogger(__name__)
T = TypeVar("T")


class _Remembered(Generic[T]):
    """A value that is fetched again after a while. While that fails, the last good one is used, but not for long."""

    def __init__(self, fetch: Callable[[], T], *, provider: str) -> None:
        """`provider` is what an error says is unavailable."""
        self._fetch = fetch
        self._provider = provider
        self._lock = threading.Lock()
        self._value: T | None = None
        self._tried_at = self._fetched_at = self._failed_at = -float("inf")
        self.fetches = 0
        """How often the value was fetched."""

    def get(self) -> T:
        """Return the value. Raises ServiceUnavailable if there is none that is younger than MAX_STALE_SECONDS."""
        asked_at = time.monotonic()
        with self._lock:
            if self._value is None and asked_at < self._failed_at:
                raise ServiceUnavailable(self._provider)  # otherwise each waiting thread would wait as long again
            is_due = asked_at - self._fetched_at >= CACHE_SECONDS and asked_at - self._tried_at >= RETRY_SECONDS
            if self._value is None or is_due:
                self._try_to_fetch()
            if self._value is None or asked_at - self._fetched_at >= MAX_STALE_SECONDS:
                raise ServiceUnavailable(self._provider)
            return self._value

    def get_newer(self, known: T) -> T:
        """Return a value that was fetched after this one, which lacks a key.

        Raises ServiceUnavailable if it cannot be fetched, and UnknownKey if it is too early for that.
        """
        with self._lock:
            if self._value is known:
                left = self._tried_at + RETRY_SECONDS - time.monotonic()
                if left > 0:
                    raise UnknownKey(self._provider, retry_after=math.ceil(left))
                self._try_to_fetch()
            if self._value is None or self._value is known:
                raise ServiceUnavailable(self._provider)
            return self._value

    def _try_to_fetch(self) -> None:
        try:
            self._value = self._fetch()
        except ServiceUnavailable:
            self._tried_at = self._failed_at = time.monotonic()
        else:
            self._tried_at = self._fetched_at = time.monotonic()
            self.fetches += 1


class OidcProvider:
    """Log in by the authorization code flow, with PKCE, nonce and client secret."""

    rechecks_names = True

    def __init__(
        self, settings: OpenIDConnect, *, client_secret: str, callback_url: str, groups: frozenset[str]
    ) -> None:
        """`groups` are those in which memberships are looked up. Nothing is fetched yet."""
        self.name = provider_name(settings)
        self.title = settings.title
        self._settings = settings
        self._client_secret = client_secret
        self._callback_url = callback_url
        self._explain = partial(provider_errors.explain, provider=self.title, callback=callback_url)
        self._groups = groups
        self._metadata = _Remembered(self._fetch_metadata, provider=self.title)
        self._keys = _Remembered(self._fetch_keys, provider=self.title)

    def authorization_url(self, *, state: str, code_challenge: str) -> str:
        """Return the URL of the provider's login page. Raises ServiceUnavailable if its metadata was never fetched."""
        metadata = self._metadata.get()
        scopes = list(self._settings.scopes)
        if "offline_access" in metadata.get("scopes_supported", ()) and "offline_access" not in scopes:
            scopes.append("offline_access")
        parameters: dict[str, str | None] = {
            **self._settings.authorization_parameters,
            "response_type": "code",
            "client_id": self._settings.client_id,
            "redirect_uri": self._callback_url,
            "scope": " ".join(scopes),
            "state": state,
            "nonce": _nonce(code_challenge),
            "code_challenge": code_challenge,
            "code_challenge_method": "S256",
        }
        return redirect_uris.with_parameters(metadata["authorization_endpoint"], parameters)

    def finish_login(self, *, code: str, code_verifier: str) -> Login:
        """Redeem the code, verify the ID token, and fetch the claims that it lacks."""
        challenge = _base64(hashlib.sha256(code_verifier.encode()).digest())
        with http.Session() as session:
            tokens = self._call_token_endpoint(
                session,
                {
                    "grant_type": "authorization_code",
                    "code": code,
                    "redirect_uri": self._callback_url,
                    "code_verifier": code_verifier,
                },
            )
            id_token = tokens.get("id_token")
            if not isinstance(id_token, str):
                raise LoginError("the provider sent no ID token")
            claims = self._verify_id_token(id_token)
            if not hmac.compare_digest(str(claims.get("nonce")).encode(), _nonce(challenge).encode()):
                raise LoginError("the ID token is for another login")
            profile = self._ask_who(session, claims, tokens)
        refresh_token = tokens.get("refresh_token")
        return Login(profile=profile, token=refresh_token if isinstance(refresh_token, str) else None)

    def identify(self, token: str, *, replaced: Callable[[str], None]) -> Profile:
        """Ask again with the refresh token of an earlier login. Raises LoginError if the provider refuses it."""
        with http.Session() as session:
            tokens = self._call_token_endpoint(session, {"grant_type": "refresh_token", "refresh_token": token})
            if isinstance(successor := tokens.get("refresh_token"), str) and successor != token:
                replaced(successor)
            id_token = tokens.get("id_token")  # optional here (Core §12.2)
            try:
                claims = self._verify_id_token(id_token) if isinstance(id_token, str) else {}
            except LoginError as error:
                # The provider has accepted the token, so this is no refusal: its keys may have changed, or its clock be
                # wrong.
                log.error("the identity provider's answer: %s", error)
                raise ServiceUnavailable(self.title) from error
            return self._ask_who(session, claims, tokens)

    @property
    def issuer(self) -> str:
        """The provider's issuer."""
        return self._settings.issuer

    def find_key(self, *, kid: str | None, algorithm: str) -> VerificationKey | None:
        """Return the key that the header of a token names; None if the provider does not have such a key.

        Raises ServiceUnavailable if its keys are too old and cannot be fetched, and UnknownKey for a `kid` that the
        provider may have begun to use since they were fetched.
        """
        fetches = self._keys.fetches
        keys = self._keys.get()
        found = jwk_sets.select(keys, kid=kid, algorithm=algorithm)
        if found is not None or self._keys.fetches > fetches:
            return found
        try:
            newer = self._keys.get_newer(keys)
        except ServiceUnavailable:
            if jwk_sets.lacks(keys, kid):
                raise
            return None
        return jwk_sets.select(newer, kid=kid, algorithm=algorithm)

    # Asking

    def _call_token_endpoint(self, session: http.Session, form: Mapping[str, str]) -> dict[str, Any]:
        metadata = self._metadata.get()
        client_id, secret = self._settings.client_id, self._client_secret
        methods = metadata.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        is_basic = "client_secret_basic" in methods
        answer = http.call(
            session,
            "POST",
            metadata["token_endpoint"],
            provider=self.title,
            # Both parts are form-encoded first (RFC 6749 §2.3.1).
            basic=(quote_plus(client_id), quote_plus(secret)) if is_basic else None,
            data=form if is_basic else {**form, "client_id": client_id, "client_secret": secret},
        )
        if answer.status == 200:
            return answer.document()
        if answer.status not in {400, 401, 403}:
            log.error("the identity provider's token endpoint answered %s", answer.status)
            raise ServiceUnavailable(self.title)
        document = answer.document()
        if (error := document.get("error")) in _ABOUT_THE_USER:
            raise LoginError(f"the provider refused: {error}")
        # Only the operator can mend a wrong client secret, so no login ends by it.
        explained = self._explain(document, is_vouched=True)
        raise explained if isinstance(explained, ServiceUnavailable) else ServiceUnavailable(self.title)

    def explain_refusal(self, parameters: Mapping[str, str]) -> LoginError | ServiceUnavailable:
        """Return the error for the provider's answer at the callback (Core §3.1.2.6)."""
        return self._explain(parameters, is_vouched=False)

    def _ask_who(self, session: http.Session, claims: dict[str, Any], tokens: dict[str, Any]) -> Profile:
        wanted = {"sub", self._settings.username_claim} | ({self._settings.groups_claim} if self._groups else set())
        if not wanted <= claims.keys():
            claims = self._with_userinfo(session, claims, tokens)
        return self.profile_of(claims)

    def _with_userinfo(self, session: http.Session, claims: dict[str, Any], tokens: dict[str, Any]) -> dict[str, Any]:
        """Return the claims with those of the UserInfo endpoint (Core §5.3), which must be of the same user."""
        endpoint, access_token = self._metadata.get().get("userinfo_endpoint"), tokens.get("access_token")
        if not isinstance(endpoint, str) or not isinstance(access_token, str):
            return claims
        answer = http.call(session, "GET", endpoint, provider=self.title, token=access_token)
        if answer.status in {401, 403}:
            raise LoginError("the provider refused its access token")
        if answer.status != 200:
            raise ServiceUnavailable(self.title)
        userinfo = answer.document()
        if not isinstance(userinfo.get("sub"), str) or claims.get("sub", userinfo["sub"]) != userinfo["sub"]:
            raise LoginError("the UserInfo endpoint answered for another user")
        return userinfo | claims

    def profile_of(self, claims: dict[str, Any]) -> Profile:
        """Return the user of verified claims. Raises LoginError without a usable `sub`."""
        subject = claims.get("sub")
        if not _is_plain(subject):
            raise LoginError("the provider sent no usable sub")
        subject = f"{self.name}#{subject}"  # `#` cannot stand in an issuer
        username = claims.get(self._settings.username_claim)
        # A user can claim an address that is not verified. The full subject cannot be mistaken for a login name.
        is_vouched = self._settings.username_claim != "email" or claims.get("email_verified") is True
        if _is_plain(username) and username.lower().startswith(USER_ID_PREFIXES):
            is_vouched = False  # a login name must not look like a user's id
        groups = claims.get(self._settings.groups_claim, [])
        return Profile(
            subject=subject,
            login=username if is_vouched and _is_plain(username) else subject,
            groups=frozenset(
                group
                for group in (groups if isinstance(groups, list) else [groups])
                if isinstance(group, str) and group in self._groups
            ),
        )

    # Verifying

    def _verify_id_token(self, unverified: str) -> dict[str, Any]:
        """Return the claims of an ID token, verified as Core §3.1.3.7 says except for the nonce. Raises LoginError."""
        try:
            header, _ = read_unverified(unverified)
            algorithm, kid = header.get("alg"), header.get("kid")
            if algorithm not in jwk_sets.ALGORITHMS or not (kid is None or isinstance(kid, str)):
                raise jwt.InvalidAlgorithmError
            if (key := self.find_key(kid=kid, algorithm=algorithm)) is None:
                raise jwt.InvalidKeyError
            claims = decode(
                unverified,
                key,
                algorithms=[algorithm],
                issuer=self._settings.issuer,
                audience=self._settings.client_id,
                leeway=CLOCK_SKEW_SECONDS,
                options=_CHECKS,
            )
        except jwt.PyJWTError as error:
            raise LoginError(f"the ID token is not valid: {type(error).__name__}") from error
        has_others = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
        if claims.get("azp", None if has_others else self._settings.client_id) != self._settings.client_id:
            raise LoginError("the ID token was issued to another party")
        return claims

    def _fetch_metadata(self) -> dict[str, Any]:
        url = self._settings.issuer.removesuffix("/") + DISCOVERY_PATH
        with http.Session() as session:
            answer = http.call(session, "GET", url, provider=self.title)
        if answer.status != 200:
            raise ServiceUnavailable(self.title)
        metadata = answer.document()
        if metadata.get("issuer") != self._settings.issuer:
            log.error("identity_provider.issuer: %s names another issuer: %.200r", url, metadata.get("issuer"))
            raise ServiceUnavailable(self.title)
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri", "userinfo_endpoint"):
            if not (name == "userinfo_endpoint" and name not in metadata) and not self._is_safe(metadata.get(name)):
                log.error("identity_provider.issuer: %s has no https URL as %s", url, name)
                raise ServiceUnavailable(self.title)
        for name in ("scopes_supported", "token_endpoint_auth_methods_supported"):
            if not isinstance(metadata.get(name, []), list):
                del metadata[name]
        return metadata

    def _is_safe(self, url: Any) -> bool:
        """Whether secrets may go to this URL: https, or http on this machine if the issuer is on this machine too."""
        if not isinstance(url, str) or not url.isascii() or not url.isprintable() or "#" in url:
            return False
        try:
            parts = urlsplit(url)
        except ValueError:
            return False
        is_local = is_loopback_host(parts.hostname or "") and is_loopback_host(
            urlsplit(self._settings.issuer).hostname or ""
        )
        return bool(parts.hostname) and (parts.scheme == "https" or (parts.scheme == "http" and is_local))

    def _fetch_keys(self) -> tuple[VerificationKey, ...]:
        with http.Session() as session:
            answer = http.call(session, "GET", self._metadata.get()["jwks_uri"], provider=self.title)
        if answer.status != 200:
            raise ServiceUnavailable(self.title)
        try:
            return jwk_sets.parse(answer.document())
        except KeySetError as error:
            log.error("the identity provider's key set %s", error)
            raise ServiceUnavailable(self.title) from error


def _nonce(code_challenge: str) -> str:
    """Return the nonce of a login, derived from its code challenge, so that nothing more is stored."""
    return _base64(hashlib.sha256(b"nonce:" + code_challenge.encode()).digest())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _is_plain(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and 0 < len(value) <= _MAX_TEXT and value.isprintable()
