"""Who may log in, and where."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from .values import BaseUrl, IssuerUrl, Model, ScopeName

OIDC_OWN_PARAMETERS = frozenset(
    {
        *("client_id", "redirect_uri", "response_type", "response_mode", "scope", "state", "nonce"),
        *("code_challenge", "code_challenge_method", "request", "request_uri"),
    }
)
"""Parameters of a login at an OpenID Connect provider that protect it."""


class AllowList(Model):
    """Users of the identity provider. If all lists are empty, they admit no user."""

    users: tuple[str, ...] = Field(default=(), strict=False, description="Login names at the identity provider.")
    organizations: tuple[str, ...] = Field(default=(), strict=False, description="Members of these organizations.")
    teams: tuple[Annotated[str, Field(pattern=r"^[^/\s]+/[^/\s]+$")], ...] = Field(
        default=(), strict=False, description="Members of these teams, as `organization/team-slug`."
    )
    groups: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=(), strict=False, description="Members of these groups of an OpenID Connect provider."
    )


class GitHub(Model):
    """GitHub, or GitHub Enterprise Server by its own URLs, as the identity provider."""

    type: Literal["github"]
    client_id: Annotated[str, Field(min_length=1)]
    url: BaseUrl = Field(default="https://github.com", description="Where users log in.")
    api_url: BaseUrl = Field(default="https://api.github.com", description="The REST API's base URL.")


class OpenIDConnect(Model):
    """Any OpenID Connect provider, found by discovery, as the identity provider."""

    type: Literal["oidc"]
    issuer: IssuerUrl = Field(description="Exactly as the provider's discovery document names it.")
    client_id: Annotated[str, Field(min_length=1)]
    title: Annotated[str, Field(min_length=1)] = Field(
        default="your organization's login", description="The name on pages: Continue with TITLE."
    )
    scopes: tuple[ScopeName, ...] = Field(
        default=("openid", "profile", "email"),
        strict=False,
        description="Requested at each login; `offline_access` is added if the provider offers it.",
    )
    username_claim: Annotated[str, Field(min_length=1)] = Field(
        default="preferred_username",
        description="Compared with `users`. `email` counts only if `email_verified` is true.",
    )
    groups_claim: Annotated[str, Field(min_length=1)] = Field(
        default="groups", description="A list of strings, compared with `groups` exactly."
    )
    authorization_parameters: dict[str, str] = Field(
        default={},
        description="Added to each authorization request, for example `prompt: consent` or `access_type: offline`.",
    )

    @model_validator(mode="after")
    def _is_login(self) -> OpenIDConnect:
        if "openid" not in self.scopes:
            raise ValueError("scopes must contain openid")
        if taken := sorted(OIDC_OWN_PARAMETERS & self.authorization_parameters.keys()):
            raise ValueError(f"authorization_parameters may not set {taken[0]}")
        return self
