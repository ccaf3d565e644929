"""Clients that the operator declares: machines that act for themselves, and programs that cannot register."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import Field, model_validator

from .clients import DocumentUrl
from .values import Model, ResourceName, ScopeName

ClientName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
"""It is the client_id. Those of registrations and client documents never have this form."""
MAX_LIFETIME: Final = 86400


class DeclaredClient(Model):
    """One client, which authenticates by one of `public_key`, `jwks`, `jwks_url` and `secret`.

    With `servers` it gets tokens for itself (RFC 6749 §4.4). With `redirect_uris` it logs users in, and may then be a
    public client, without authentication. With `user_assertions` its users are logged in at the identity provider.
    """

    title: str | None = Field(default=None, description="The name on pages and in lists; by default the client_id.")
    public_key: str | None = Field(default=None, description="A public key in PEM, for `private_key_jwt`.")
    jwks: dict[str, Any] | None = Field(default=None, description="Public keys as a JWK set, for `private_key_jwt`.")
    jwks_url: DocumentUrl | None = Field(default=None, description="Where the client publishes its JWK set.")
    secret: bool = Field(
        default=False,
        description="Whether it authenticates by a secret, which is the credential `declared-client.NAME`.",
    )
    servers: tuple[ResourceName, ...] = Field(
        default=(), strict=False, description="The servers that it may use for itself."
    )
    scopes: tuple[ScopeName, ...] = Field(
        default=(),
        strict=False,
        description="The scopes that it may have at these servers, in addition to those that each request needs.",
    )
    lifetime: Annotated[int, Field(gt=0, le=MAX_LIFETIME)] = Field(
        default=3600, description="For how many seconds a token of its own is valid."
    )
    user_assertions: bool = Field(
        default=False,
        description="Whether the OpenID Connect provider may vouch for its users (ID-JAG, MCP's enterprise-managed "
        "authorization).",
    )
    redirect_uris: tuple[str, ...] = Field(
        default=(), strict=False, max_length=20, description="Where the answers to its users' logins go."
    )

    @model_validator(mode="after")
    def _is_one_kind(self) -> DeclaredClient:
        proofs = [self.public_key is not None, self.jwks is not None, self.jwks_url is not None, self.secret]
        if sum(proofs) > 1:
            raise ValueError("must have only one of public_key, jwks, jwks_url and secret")
        if bool(self.servers) == (bool(self.redirect_uris) or self.user_assertions):
            raise ValueError(
                "must have either servers, to act for itself, or redirect_uris or user_assertions, to act for users"
            )
        if self.servers and not any(proofs):
            raise ValueError("acts for itself, so it must have one of public_key, jwks, jwks_url and secret")
        if self.user_assertions and not any(proofs):
            raise ValueError("user_assertions need authentication: one of public_key, jwks, jwks_url and secret")
        if self.scopes and not self.servers:
            raise ValueError("scopes are for clients with servers: users decide which scopes others get")
        return self
