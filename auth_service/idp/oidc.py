"""Any OpenID Connect provider, by discovery (OpenID Connect Core 1.0 and Discovery 1.0; RFC 9700)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
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
from auth_service.protocol.errors import LoginError, ServiceUnavailable
from auth_service.protocol.jwk_sets import KeySetError, VerificationKey
from auth_service.protocol.jwt_checks import checking_all, decode, read_unverified
from auth_service.settings import OpenIDConnect, is_loopback_host

from . import Login, http, provider_errors, provider_name

DISCOVERY_PATH: Final = "/.well-known/openid-configuration"
CACHE_SECONDS: Final = 3600
KEY_SET_REFRESH_SECONDS: Final = 30
"""How long after a fetch an unknown `kid` leads to no other fetch of the key set."""
MAX_STALE_SECONDS: Final = 24 * 3600
"""For how long keys are used for assertions while the provider does not answer."""
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
    """A value that is fetched again after a while. If that fails, the last good one is used."""

    def __init__(self, fetch: Callable[[], T]) -> None:
        self._fetch = fetch
        self._lock = threading.Lock()
        self._value: T | None = None
        self._fetched_at = self._good_at = -float("inf")
        self._failure = (-float("inf"), "")

    def get(self, *, max_age: float = CACHE_SECONDS, max_stale: float = float("inf")) -> T:
        """Return the value, at most `max_age` seconds old if the provider answers, and else `max_stale`.

        Raises ServiceUnavailable.
        """
        asked_at = time.monotonic()
        with self._lock:
            failed_at, dependency = self._failure
            if self._value is None and asked_at < failed_at:  # otherwise each waiting thread would wait as long again
                raise ServiceUnavailable(dependency)
            if asked_at - self._good_at >= max_stale:  # no use to wait for as long as with a good value
                max_age = min(max_age, KEY_SET_REFRESH_SECONDS)
            if self._value is None or time.monotonic() - self._fetched_at >= max_age:
                try:
                    self._value = self._fetch()
                except ServiceUnavailable as error:
                    if self._value is None:
                        self._failure = time.monotonic(), error.dependency
                        raise
                    self._failure = time.monotonic(), error.dependency
                    self._fetched_at = time.monotonic()
                else:
                    self._fetched_at = self._good_at = time.monotonic()
            if asked_at - self._good_at >= max_stale:
                raise ServiceUnavailable(self._failure[1])
            return self._value


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
        self._metadata = _Remembered(self._fetch_metadata)
        self._keys = _Remembered(self._fetch_keys)

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

    def find_current_key(self, *, kid: str | None, algorithm: str) -> VerificationKey | None:
        """Return the key that the header of an assertion names, from keys that are not too old.

        A login asks the provider each time, so that one who is out of reach logs no user in. An assertion comes without
        the provider, so that a key which it has withdrawn must not be used for long. Raises ServiceUnavailable.
        """
        return self._find_key(kid=kid, algorithm=algorithm, max_stale=MAX_STALE_SECONDS)

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
            if (key := self._find_key(kid=kid, algorithm=algorithm)) is None:
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

    def _find_key(self, *, kid: str | None, algorithm: str, max_stale: float = float("inf")) -> VerificationKey | None:
        """Return the key that a header names, from a new key set if the provider has rotated its keys."""
        for max_age in (CACHE_SECONDS, KEY_SET_REFRESH_SECONDS):
            keys = self._keys.get(max_age=max_age, max_stale=max_stale)
            if (key := jwk_sets.select(keys, kid=kid, algorithm=algorithm)) is not None:
                return key
        return None

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
