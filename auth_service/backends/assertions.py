"""Signed messages to backends: the identity assertion, the revocation notice, the survey.

Both are itsdangerous tokens under the backend's own key; docs/contracts.md is the contract with the bridge.
"""

from __future__ import annotations

from collections.abc import Iterable

from auth_service.keys.access_tokens import VerifiedClaims
from auth_service.keys.serializers import make_serializer
from auth_service.settings import Credentials

IDENTITY_SALT = "mcp-oauth-gateway.identity"
REVOCATION_SALT = "mcp-oauth-gateway.revocation"
SURVEY_SALT = "mcp-oauth-gateway.survey"


def derive_identity_key(credentials: Credentials, resource_name: str) -> bytes:
    """Return the identity key of a resource, which its bridge has too."""
    return credentials.derive_key(f"identity-key:{resource_name}")


class BackendSigner:
    """Sign messages to the backends of one resource."""

    def __init__(self, identity_key: bytes) -> None:
        self._identity = make_serializer(identity_key, salt=IDENTITY_SALT)
        self._revocation = make_serializer(identity_key, salt=REVOCATION_SALT)
        self._survey = make_serializer(identity_key, salt=SURVEY_SALT)

    def sign_identity(self, claims: VerifiedClaims, *, grantable: Iterable[str] = ()) -> str:
        """Return the value of `X-Gateway-Identity`: URL-safe ASCII, good for 60 s from now.

        `grantable` are scopes that the grant lacks and that the user may still be granted.
        """
        return _text(
            self._identity.dumps(
                {
                    "sub": claims.subject,
                    "name": claims.name,
                    "client_id": claims.client_id,
                    "scope": claims.scope,
                    "grantable_scope": " ".join(grantable),
                    "aud": claims.audience,
                    "sid": claims.sid,
                    "exp": claims.expires_at,
                }
            )
        )

    def sign_survey(self) -> str:
        """Return the body of `POST /survey`, good for 60 s from now."""
        return _text(self._survey.dumps({}))

    def sign_revocation(self, sid: str) -> str:
        """Return the body of `POST /revocations` for a grant that has ended."""
        return _text(self._revocation.dumps({"sid": sid}))

    def sign_user_revocation(self, sub: str) -> str:
        """Return the body of `POST /revocations` that ends all processes of a user."""
        return _text(self._revocation.dumps({"sub": sub}))


def _text(signed: str | bytes) -> str:
    return signed if isinstance(signed, str) else signed.decode("ascii")
